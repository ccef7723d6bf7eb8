package attest

import (
	"bytes"
	"encoding/hex"
	"slices"
	"strings"
	"testing"
)

// TestEventLogs replays the two real logs: one to the values that its source
// publishes, the other to the registers of the quote that came with it.
func TestEventLogs(t *testing.T) {
	events, err := parseEventLog(tdxFile(t, "ccel-ovmf.bin"))
	if err != nil {
		t.Fatal(err)
	}
	want := [4]string{
		"8566f998798db09443b244c62de9a3041fb02e2e6936c4396d784bba2e90177329ec5aba3bb484404f2ab9cc90abe193",
		"775b9f6bfe99f8a31396f0d0218e67ffa796d3b96ccf961cbb0deba48c79c00f082cda1a5567c1c16305f1fc210c13c6",
		"94eaf7a7bf398ed8d888c91057ae0261802e4f3df084213a76ca7f0b5055ac9d2241de43cd58d9e8b49c503bbf25f34a",
		strings.Repeat("00", 48),
	}
	if len(events) != 20 {
		t.Errorf("%d events, want 20", len(events))
	}
	for i, got := range replay(events) {
		if hex.EncodeToString(got[:]) != want[i] {
			t.Errorf("RTMR%d is %x", i, got)
		}
	}
	// A directly booted kernel measures line and initrd first, in this order.
	var stub []logEvent
	for _, e := range events {
		if e.register == registerOfLine {
			stub = append(stub, e)
		}
	}
	if len(stub) != 2 || !stub[0].tagged(loadOptionsTag) || !stub[1].tagged(initrdTag) || !bytes.Contains(stub[0].data, []byte("LoadOptions")) {
		t.Errorf("RTMR2 of a direct boot: %v", stub)
	}

	raw := tdxFile(t, "cos-113-tdx-quote.dat")
	form, at, size := quoteForm(raw)
	q, err := readQuote(raw, form, at, size)
	if err != nil {
		t.Fatal(err)
	}
	if events, err = parseEventLog(tdxFile(t, "cos-113-ccel.bin")); err != nil {
		t.Fatal(err)
	}
	for i, got := range replay(events) {
		if !bytes.Equal(got[:], q.body.Rtmrs[i]) {
			t.Errorf("RTMR%d of the quote is %x, of its log %x", i, q.body.Rtmrs[i], got)
		}
	}
}

func TestEventLogRefusals(t *testing.T) {
	good := softLog(softEvent{1, 0, [48]byte{1}}, softEvent{4, 0, [48]byte{2}})
	if _, err := parseEventLog(good); err != nil {
		t.Fatal(err)
	}
	const header = 8 + 20 + 4
	cut := func(n int) []byte { return good[:n] }
	with := func(offset int, b ...byte) []byte {
		out := slices.Clone(good)
		copy(out[offset:], b)
		return out
	}
	first := header + 33
	for name, log := range map[string][]byte{
		"empty":                           {},
		"too large":                       make([]byte, maxEventLogBytes+1),
		"cut in the header":               cut(20),
		"cut in an event":                 cut(first + 30),
		"older form":                      with(header, []byte("Spec ID Event02")...),
		"header that extends":             with(4, 4),
		"no algorithm":                    with(header+24, 0),
		"too many algorithms":             with(header+24, 9),
		"SHA-256 only":                    with(header+28, 0x0b),
		"vendor bytes that are not there": with(header+32, 9),
		"MRTD":                            with(first, 0),
		"register 5":                      with(first, 5),
		"another digest":                  with(first+12, 0x0b),
		"two digests":                     with(first+8, 2),
		"no digest":                       with(first+8, 0),
		"endless data":                    with(first+12+50, 0xff, 0xff, 0xff, 0xff),
		"padding with something in it":    append(slices.Clone(good), 1),
	} {
		if _, err := parseEventLog(log); err == nil {
			t.Errorf("%s: read", name)
		}
	}
	// Padding of zeros, or none, is as good.
	if _, err := parseEventLog(good[:len(good)-64]); err != nil {
		t.Error(err)
	}
	if _, err := parseEventLog(append(slices.Clone(good[:len(good)-64]), make([]byte, 100)...)); err != nil {
		t.Error(err)
	}
}

// TestEventLogFlips: no byte of a digest can be changed without the log being
// refused. Names, types and data of events are in no measurement; what rests on
// them, besides, rests on position and digest.
func TestEventLogFlips(t *testing.T) {
	log := tdxFile(t, "ccel-ovmf.bin")[:2120+64]
	events, err := parseEventLog(log)
	if err != nil {
		t.Fatal(err)
	}
	want := replay(events)
	covered := make([]bool, len(log))
	for _, e := range events {
		at := bytes.Index(log, e.digest[:])
		for at >= 0 && at < len(log) {
			for i := range e.digest {
				covered[at+i] = true
			}
			next := bytes.Index(log[at+1:], e.digest[:])
			if next < 0 {
				break
			}
			at += 1 + next
		}
	}
	for i := range log {
		changed := slices.Clone(log)
		changed[i] ^= 0x10
		events, err := parseEventLog(changed)
		if err == nil && covered[i] && replay(events) == want {
			t.Errorf("byte %d of a digest changed, and the registers did not", i)
		}
	}
}
