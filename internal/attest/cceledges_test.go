package attest

import (
	"bytes"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"slices"
	"strings"
	"testing"
)

// TestEventLogEdges bends the head of a log, where the kinds of digests are named, and the events behind it.
func TestEventLogEdges(t *testing.T) {
	le32 := binary.LittleEndian.AppendUint32
	type kind struct{ id, size uint16 }
	head := func(kinds []kind, vendor int, behind []byte) []byte {
		id := append(bytes.Clone([]byte("Spec ID Event03\x00")), make([]byte, 8)...)
		id = le32(id, uint32(len(kinds)))
		for _, k := range kinds {
			id = binary.LittleEndian.AppendUint16(binary.LittleEndian.AppendUint16(id, k.id), k.size)
		}
		id = append(append(append(id, byte(vendor)), make([]byte, vendor)...), behind...)
		out := le32(le32(nil, 1), 3)
		return append(le32(append(out, make([]byte, 20)...), uint32(len(id))), id...)
	}
	digest := bytes.Repeat([]byte{7}, 48)
	event := func(index, what uint32, digests ...[]byte) []byte {
		out := le32(le32(le32(nil, index), what), uint32(len(digests)))
		return le32(append(out, bytes.Join(digests, nil)...), 0)
	}
	sha384 := append([]byte{0x0c, 0}, digest...)
	of := func(id uint16, size int) []byte {
		return append(binary.LittleEndian.AppendUint16(nil, id), bytes.Repeat([]byte{9}, size)...)
	}
	plain := []kind{{0x0c, 48}}
	var eight, nine []kind
	var eightDigests [][]byte
	for i := range uint16(8) {
		eight, eightDigests = append(eight, kind{0x0c + i, 48}), append(eightDigests, of(0x0c+i, 48))
	}
	nine = append(slices.Clone(eight), kind{0x40, 20})
	for name, c := range map[string]struct {
		log    []byte
		events int // less than zero: refused
	}{
		"no event":                           {head(plain, 0, nil), 0},
		"one":                                {append(head(plain, 0, nil), event(1, 6, sha384)...), 1},
		"with words of the vendor":           {append(head(plain, 255, nil), event(4, 6, sha384)...), 1},
		"something behind the vendor":        {head(plain, 0, []byte{0}), -1},
		"no kind":                            {head(nil, 0, nil), -1},
		"eight kinds":                        {append(head(eight, 0, nil), event(1, 6, eightDigests...)...), 1},
		"nine kinds":                         {head(nine, 0, nil), -1},
		"a kind twice":                       {head([]kind{{0x0c, 48}, {0x0c, 48}}, 0, nil), -1},
		"a kind of no size":                  {head([]kind{{0x0c, 48}, {0x0b, 0}}, 0, nil), -1},
		"a kind of one byte":                 {append(head([]kind{{0x0c, 48}, {0x0b, 1}}, 0, nil), event(1, 6, sha384, of(0x0b, 1))...), 1},
		"a kind of 64 bytes":                 {append(head([]kind{{0x0c, 48}, {0x0d, 64}}, 0, nil), event(1, 6, of(0x0d, 64), sha384)...), 1},
		"a kind of 65 bytes":                 {head([]kind{{0x0c, 48}, {0x0d, 65}}, 0, nil), -1},
		"SHA-384 of another size":            {head([]kind{{0x0c, 47}}, 0, nil), -1},
		"an event that extends none":         {append(head(plain, 0, nil), event(9, 3, sha384)...), 0},
		"one digest twice":                   {append(head([]kind{{0x0c, 48}, {0x0b, 48}}, 0, nil), event(1, 6, sha384, sha384)...), -1},
		"a digest of no kind":                {append(head([]kind{{0x0c, 48}, {0x0b, 48}}, 0, nil), event(1, 6, sha384, of(0x0d, 48))...), -1},
		"one digest of two":                  {append(head([]kind{{0x0c, 48}, {0x0b, 48}}, 0, nil), event(1, 6, sha384)...), -1},
		"padding of zeros":                   {append(head(plain, 0, nil), make([]byte, 9)...), 0},
		"padding of ones":                    {append(head(plain, 0, nil), bytes.Repeat([]byte{0xff}, 9)...), 0},
		"padding of something else":          {append(head(plain, 0, nil), bytes.Repeat([]byte{1}, 99)...), -1},
		"padding that changes":               {append(head(plain, 0, nil), 0, 0, 0xff), -1},
		"an event of register 0":             {append(head(plain, 0, nil), event(0, 6, sha384)...), -1},
		"an event of register 5":             {append(head(plain, 0, nil), event(5, 6, sha384)...), -1},
		"an event that ends in its digest":   {append(head(plain, 0, nil), event(1, 6, sha384)[:30]...), -1},
		"an event that ends in its head":     {append(head(plain, 0, nil), event(1, 6, sha384)[:7]...), -1},
		"an event that ends in its length":   {append(head(plain, 0, nil), event(1, 6, sha384)[:64]...), -1},
		"a header that names no size at all": {head(plain, 0, nil)[:31], -1},
	} {
		events, err := parseEventLog(c.log)
		if (err == nil) != (c.events >= 0) || err == nil && len(events) != c.events {
			t.Errorf("%s: %d events, %v", name, len(events), err)
		}
		for _, e := range events {
			if !bytes.Equal(e.digest[:], digest) && !strings.HasPrefix(name, "eight") {
				t.Errorf("%s: digest %x", name, e.digest)
			}
		}
	}
	for _, data := range [][]byte{le32(nil, initrdTag), append(le32(nil, initrdTag), 1, 2, 3)} {
		if (logEvent{kind: eventTag, data: data}).tagged(initrdTag) {
			t.Errorf("%d bytes are a tag", len(data))
		}
	}
	tag := append(le32(nil, initrdTag), 0, 0, 0, 0)
	if (logEvent{kind: 7, data: tag}).tagged(initrdTag) || !(logEvent{kind: eventTag, data: tag}).tagged(initrdTag) || (logEvent{kind: eventTag, data: tag}).tagged(loadOptionsTag) {
		t.Error("a tag is one of the tag's kind with its id")
	}
	// What the checks say of a log that is believed, of one that cannot be read, and of one that gives other registers.
	s := newSoftTD(t)
	line, initrd := lineDigests("quiet")[0], sha512.Sum384([]byte("initrd"))
	log := softLog(softEvent{2, 0, line}, softEvent{3, loadOptionsTag, line}, softEvent{3, initrdTag, initrd})
	events, err := parseEventLog(log)
	if err != nil {
		t.Fatal(err)
	}
	s.body.rtmrs = replay(events)
	pol := s.policy()
	pol.TDX.CommandLine, pol.TDX.Initrds = "quiet", [][]byte{initrd[:]}
	res, r := judged(t, Evidence{TEE: TDX, Report: s.quote(), EventLog: log}, s.collateral(), pol, s.now)
	if r != nil || !res.TDX.EventLog || res.Checks[tdxEventLog].Got != "3 events" || res.Checks[tdxCommandLine].Got != hex.EncodeToString(line[:]) || res.Checks[tdxInitrd].Got != hex.EncodeToString(initrd[:]) {
		t.Errorf("%v %+v", r, res)
	}
	for name, c := range map[string]struct {
		log    []byte
		detail string
	}{
		"cut":          {log[:100], "reading event log: it ends within an event"},
		"of another":   {softLog(softEvent{2, 0, line}), "the event log does not give RTMR2 of the quote"},
		"of no events": {softLog(), "the event log does not give RTMR1 of the quote"},
		"none":         {nil, "the policy needs the event log, and none came with the quote"},
	} {
		_, r := judged(t, Evidence{TEE: TDX, Report: s.quote(), EventLog: c.log}, s.collateral(), pol, s.now)
		want := []string{tdxTable[tdxEventLog].Name, tdxTable[tdxCommandLine].Name, tdxTable[tdxInitrd].Name}
		if got := failed(r); !slices.Equal(got, want) || r.Detail != c.detail || r.Checks[tdxCommandLine].Got != "none" || r.Checks[tdxCommandLine].Expected != "an event log that gives RTMR2" {
			t.Errorf("a log %s: %q, %v", name, got, r)
		}
	}
	unnamed := s.policy()
	unnamed.TDX.CommandLine, unnamed.TDX.Initrds, unnamed.TDX.RTMRs[1] = "quiet", [][]byte{initrd[:]}, RTMRRule{}
	_, r = judged(t, Evidence{TEE: TDX, Report: s.quote(), EventLog: log}, s.collateral(), unnamed, s.now)
	if got := failed(r); !slices.Equal(got, []string{tdxTable[tdxRTMR1].Name, tdxTable[tdxCommandLine].Name}) {
		t.Errorf("a line where no kernel is named: %q", got)
	}
	any4 := s.policy()
	any4.TDX.RTMRs = [4]RTMRRule{{Any: true}, {Any: true}, {Any: true}, {Any: true}}
	res, r = s.judge(any4)
	if r != nil {
		t.Fatal(r)
	}
	for i := range 4 {
		if c := res.Checks[tdxRTMR0+check(i)]; c.Status != Passed || c.Expected != "any" || c.Got != hex.EncodeToString(s.body.rtmrs[i][:]) {
			t.Errorf("%+v", c)
		}
	}
}
