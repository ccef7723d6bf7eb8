package attest

import (
	"bytes"
	"os"
	"testing"
)

// What a verdict rests on is all that has to be kept: on less evidence the same decision comes out, for every genuine
// report, accepted or refused.
func TestJudgedGivesTheSameDecision(t *testing.T) {
	for _, s := range genuineSamples(t) {
		t.Run(s.name, func(t *testing.T) {
			leaf := bytes.Clone(s.evidence.Certificates)
			for name, sent := range map[string][]byte{
				"its own": leaf, "more behind it": append(bytes.Clone(leaf), bytes.Repeat([]byte{0x05, 0x00}, 9000)...), "none": nil, "no certificate": make([]byte, 9000),
			} {
				ev := s.evidence
				ev.Certificates, ev.EventLog = sent, make([]byte, 9000)
				res, err := Verify(ev, amd(), s.policy, s.at)
				less := Judged(ev, res, err)
				want := Decided(ev, amd(), s.policy, s.at, res, err)
				want.Evidence = less.Digest()
				if err := want.same(Judge(less, amd(), s.policy, s.at)); err != nil {
					t.Errorf("%s: %v", name, err)
				}
				if n := len(less.Certificates); n != 0 && !bytes.Equal(less.Certificates, leaf) || (n != 0) != bytes.HasPrefix(sent, leaf) || less.EventLog != nil {
					t.Errorf("%s: %d bytes of certificates and %d of a log are left", name, n, len(less.EventLog))
				}
			}
		})
	}
}

func TestJudgedKeepsWhatATrustDomainLogged(t *testing.T) {
	less := Judged(Evidence{TEE: TDX, EventLog: []byte{1}, Certificates: []byte{2}}, nil, nil)
	if len(less.EventLog) != 1 || less.Certificates != nil {
		t.Errorf("%+v", less)
	}
}

// Padding is nobody's statement, and anybody could vary it: it is not kept, and the same events are read without it.
func TestEventLogWithoutPadding(t *testing.T) {
	for _, name := range []string{"ccel-ovmf.bin", "cos-113-ccel.bin"} {
		area, err := os.ReadFile("testdata/tdx/" + name)
		if err != nil {
			t.Fatal(err)
		}
		whole, err := parseEventLog(area)
		if err != nil {
			t.Fatal(err)
		}
		log := EventLog(area)
		events, err := parseEventLog(log)
		if err != nil || len(events) != len(whole) || replay(events) != replay(whole) {
			t.Errorf("%s: %d events instead of %d, %v", name, len(events), len(whole), err)
		}
		more := append(bytes.Clone(log), bytes.Repeat([]byte{0xff}, 500)...)
		kept := Judged(Evidence{TEE: TDX, EventLog: more}, nil, nil).EventLog
		if len(log) >= len(area) || !bytes.Equal(kept, log) || !bytes.Equal(EventLog(log), log) {
			t.Errorf("%s: %d of %d bytes are the log, %d are kept", name, len(log), len(area), len(kept))
		}
	}
}
