package keybroker

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/door"
	"github.com/eosc-siesta/siestad/internal/kbs"
	"github.com/eosc-siesta/siestad/internal/permit"
)

// In these tables one thing at a time is not as it must be for a release; the rows name every check that then fails.

var (
	judgedID   = bytes.Repeat([]byte{7}, 32)
	judgedKey  = bytes.Repeat([]byte{8}, ed25519.PublicKeySize)
	everything = permit.FactSet{
		Permit: permit.Fact{Holds: true, Why: "p"}, Project: permit.Fact{Holds: true, Why: "j"}, Image: permit.Fact{Holds: true, Why: "i"}, NoFreeze: permit.Fact{Holds: true, Why: "f"},
	}
)

func judgedAttempt(p door.Purpose) *attempt {
	a := &attempt{epoch: 3, result: &attest.Result{ReportID: [32]byte(judgedID), Checks: []attest.Check{{Name: "evidence", Status: attest.Passed}}}}
	a.challenge = door.ChallengeRequest{Workspace: "w", Generation: 2, Purpose: p}
	a.req.SigningKey = ed25519.PublicKey(judgedKey)
	if p == purposeSecret {
		a.secret = &Secret{Resource: kbs.Resource{Repository: "r", Type: "t", Tag: "g"}}
	}
	return a
}

// goodStanding is that of a first unlock, of a holder that renews, or of a holder that asks for a secret.
func goodStanding(p door.Purpose) standing {
	s := standing{armState: stateArmed, armEpoch: 3, volume: "open", keyActive: true, secretLive: true}
	if p != door.Unlock {
		s.armState, s.reportID, s.headerHash = stateReleased, judgedID, "h"
		s.lease = &leaseRow{id: "l", workspace: "w", generation: 2, epoch: 3, reportID: judgedID, signingKey: judgedKey}
	}
	return s
}

func namesOfFailed(checks []attest.Check) string {
	return strings.ReplaceAll(failedNames(checks), ", ", " ")
}

func TestJudgeFacts(t *testing.T) {
	lease := func(change func(*leaseRow)) func(*attempt, *standing, *permit.FactSet) {
		return func(_ *attempt, s *standing, _ *permit.FactSet) {
			l := *s.lease
			change(&l)
			s.lease = &l
		}
	}
	standingOf := func(change func(*standing)) func(*attempt, *standing, *permit.FactSet) {
		return func(_ *attempt, s *standing, _ *permit.FactSet) { change(s) }
	}
	for _, c := range []struct {
		name    string
		purpose door.Purpose
		change  func(*attempt, *standing, *permit.FactSet)
		failed  string
		code    string
		why     string // of the check "guest"
	}{
		{"unlock", door.Unlock, nil, "", "", "armed and not yet released"},
		{"renew", door.Renew, nil, "", "", "the guest that the key was released to"},
		{"secret", purposeSecret, nil, "", "", "the guest that the volume's key was released to"},
		{"no permit", door.Unlock, func(_ *attempt, _ *standing, f *permit.FactSet) { f.Permit.Holds = false }, "permit", CodePermit, ""},
		{"no project", door.Renew, func(_ *attempt, _ *standing, f *permit.FactSet) { f.Project.Holds = false }, "project", CodeProject, ""},
		{"no image", purposeSecret, func(_ *attempt, _ *standing, f *permit.FactSet) { f.Image.Holds = false }, "image", CodeImage, ""},
		{"a freeze", door.Unlock, func(_ *attempt, _ *standing, f *permit.FactSet) { f.NoFreeze.Holds = false }, "no freeze", CodeFreeze, ""},
		{"nothing that people decide", door.Unlock, func(_ *attempt, _ *standing, f *permit.FactSet) { *f = permit.FactSet{} }, "permit project image no freeze", CodePermit, ""},
		{"key shredded", door.Unlock, standingOf(func(s *standing) { s.volume = "shredding" }), "key not shredded", CodeWorkspace, ""},
		{"no active key", door.Unlock, standingOf(func(s *standing) { s.keyActive = false }), "key not shredded", CodeWorkspace, ""},
		{"secret ended", purposeSecret, standingOf(func(s *standing) { s.secretLive = false }), "secret not ended", CodeSecret, ""},
		{"no secret asked for", door.Renew, standingOf(func(s *standing) { s.secretLive = false }), "", "", ""},

		{"suspended", door.Unlock, standingOf(func(s *standing) { s.armState = stateSuspended }), "guest", CodeSuspended, "the generation is suspended"},
		{"suspended while held", door.Renew, standingOf(func(s *standing) { s.armState = stateSuspended }), "guest", CodeSuspended, "the generation is suspended"},
		{"disarmed", door.Renew, standingOf(func(s *standing) { s.armState = stateDisarmed }), "guest", CodeGeneration, "the generation is disarmed"},
		{"disarmed, a secret", purposeSecret, standingOf(func(s *standing) { s.armState = stateDisarmed }), "guest", CodeGeneration, "the generation is disarmed"},
		{"no state at all", door.Unlock, standingOf(func(s *standing) { s.armState = "" }), "guest", CodeGeneration, "the generation is "},
		{"an earlier arming", door.Unlock, standingOf(func(s *standing) { s.armEpoch = 4 }), "guest", CodeGeneration, "the challenge is of an earlier arming"},
		{"an earlier arming, a secret", purposeSecret, standingOf(func(s *standing) { s.armEpoch = 4 }), "guest", CodeGeneration, "the challenge is of an earlier arming"},
		{"a later arming", door.Renew, standingOf(func(s *standing) { s.armEpoch = 2 }), "guest", CodeGeneration, "the challenge is of an earlier arming"},

		{"another boot renews", door.Renew, standingOf(func(s *standing) { s.reportID = judgedKey }), "guest", CodeGeneration, "not the guest that the key was released to"},
		{"nobody's boot renews", door.Renew, standingOf(func(s *standing) { s.reportID = nil }), "guest", CodeGeneration, "not the guest that the key was released to"},
		{"renewed before the release", door.Renew, standingOf(func(s *standing) { s.armState = stateArmed }), "guest", CodeGeneration, "not the guest that the key was released to"},
		{"renewed without a header", door.Renew, standingOf(func(s *standing) { s.headerHash = "" }), "", "", "the guest that the key was released to"},

		{"released and not formatted", door.Unlock, standingOf(func(s *standing) { s.armState, s.reportID = stateReleased, judgedKey }), "", "", "released, and not yet formatted"},
		{"the same boot again", door.Unlock, standingOf(func(s *standing) { s.armState, s.reportID, s.headerHash = stateReleased, judgedID, "h" }), "guest", CodeGeneration, "the key was released to this boot before"},
		{"a second boot", door.Unlock, standingOf(func(s *standing) { s.armState, s.reportID, s.headerHash = stateReleased, judgedKey, "h" }), "guest", codeSecondBoot, "a second boot that nobody asked for"},
		{"a second boot of nobody's", door.Unlock, standingOf(func(s *standing) { s.armState, s.headerHash = stateReleased, "h" }), "guest", codeSecondBoot, "a second boot that nobody asked for"},

		{"a secret before the release", purposeSecret, standingOf(func(s *standing) { s.armState = stateArmed }), "guest", CodeGeneration, "the volume's key has not been released to this boot"},
		{"a secret for a second boot", purposeSecret, standingOf(func(s *standing) { s.reportID = judgedKey }), "guest", codeSecondBoot, "a second boot that nobody asked for"},
		{"a secret for another boot, nothing formatted", purposeSecret, standingOf(func(s *standing) { s.reportID, s.headerHash = judgedKey, "" }), "guest", CodeGeneration, "not the guest that the volume's key was released to"},

		{"another holder", door.Unlock, standingOf(func(s *standing) { s.lease = &leaseRow{} }), "lease", CodeLease, ""},
		{"an ended lease that still holds", door.Unlock, standingOf(func(s *standing) { s.held = true }), "lease", CodeLease, ""},
		{"no lease to renew", door.Renew, standingOf(func(s *standing) { s.lease = nil }), "lease", CodeLease, ""},
		{"the lease of another workspace", door.Renew, lease(func(l *leaseRow) { l.workspace = "x" }), "lease", CodeLease, ""},
		{"the lease of another generation", door.Renew, lease(func(l *leaseRow) { l.generation = 1 }), "lease", CodeLease, ""},
		{"the lease of another boot", door.Renew, lease(func(l *leaseRow) { l.reportID = judgedKey }), "lease", CodeLease, ""},
		{"the lease of another signing key", door.Renew, lease(func(l *leaseRow) { l.signingKey = judgedID }), "lease", CodeLease, ""},
		{"no lease for a secret", purposeSecret, standingOf(func(s *standing) { s.lease = nil }), "lease", CodeLease, ""},
		{"a secret, the lease of another workspace", purposeSecret, lease(func(l *leaseRow) { l.workspace = "x" }), "lease", CodeLease, ""},
		{"a secret, the lease of another generation", purposeSecret, lease(func(l *leaseRow) { l.generation = 1 }), "lease", CodeLease, ""},
		{"a secret, the lease of another arming", purposeSecret, lease(func(l *leaseRow) { l.epoch = 2 }), "lease", CodeLease, ""},
		{"a secret, the lease of another boot", purposeSecret, lease(func(l *leaseRow) { l.reportID = judgedKey }), "lease", CodeLease, ""},
		{"a secret, whatever the signing key", purposeSecret, lease(func(l *leaseRow) { l.signingKey = nil }), "", "", ""},

		{"another header", door.Renew, func(a *attempt, _ *standing, _ *permit.FactSet) { a.req.HeaderHash = "x" }, "header", CodeBinding, ""},
		{"the header on record", door.Renew, func(a *attempt, _ *standing, _ *permit.FactSet) { a.req.HeaderHash = "h" }, "", "", ""},
		{"a header where none is on record", door.Unlock, func(a *attempt, _ *standing, _ *permit.FactSet) { a.req.HeaderHash = "h" }, "", "", ""},
	} {
		a, s, facts := judgedAttempt(c.purpose), goodStanding(c.purpose), everything
		if c.change != nil {
			c.change(a, &s, &facts)
		}
		checks, code := judgeFacts(a, s, facts)
		if got := namesOfFailed(checks); got != c.failed || code != c.code {
			t.Errorf("%s: failed %q with code %q, want %q with %q", c.name, got, code, c.failed, c.code)
		}
		if checks[0].Name != "evidence" || len(a.result.Checks) != 1 {
			t.Errorf("%s: the verifier's checks are gone or changed: %+v", c.name, checks)
		}
		for _, k := range checks[1:] {
			if k.Source != fromBroker || k.Code == "" {
				t.Errorf("%s: check %+v", c.name, k)
			}
			if k.Name == "guest" && c.why != "" && k.Got != c.why {
				t.Errorf("%s: guest is %q, want %q", c.name, k.Got, c.why)
			}
			if k.Name == "secret not ended" && k.Got != "r/t/g" {
				t.Errorf("%s: secret is %q", c.name, k.Got)
			}
		}
		if want := 9; c.purpose == purposeSecret && len(checks) != want+1 || c.purpose != purposeSecret && len(checks) != want {
			t.Errorf("%s: %d checks", c.name, len(checks))
		}
	}
}

// What an attestation rests on: no people, no lease, and nothing of another arming.
func TestJudgeStanding(t *testing.T) {
	host := [32]byte{5}
	measured := attest.Evidence{TEE: attest.SEVSNP, Report: append(append(make([]byte, 0xc0), host[:]...), 1)}
	for _, c := range []struct {
		name, state string
		epoch       int
		volume      string
		data        *initData
		ev          attest.Evidence
		failed      string
		code        string
	}{
		{"armed", stateArmed, 3, "open", nil, attest.Evidence{}, "", ""},
		{"released", stateReleased, 3, "open", nil, attest.Evidence{}, "", ""},
		{"suspended", stateSuspended, 3, "open", nil, attest.Evidence{}, "not suspended guest", CodeSuspended},
		{"disarmed", stateDisarmed, 3, "open", nil, attest.Evidence{}, "guest", CodeGeneration},
		{"of no state", "", 3, "open", nil, attest.Evidence{}, "guest", CodeGeneration},
		{"another arming", stateArmed, 4, "open", nil, attest.Evidence{}, "guest", CodeGeneration},
		{"another arming, released", stateReleased, 2, "open", nil, attest.Evidence{}, "guest", CodeGeneration},
		{"shredded", stateArmed, 3, "shredded", nil, attest.Evidence{}, "key not shredded", CodeWorkspace},
		{"with init-data", stateArmed, 3, "open", &initData{host: host}, measured, "", ""},
		{"with other init-data", stateArmed, 3, "open", &initData{host: [32]byte{6}}, measured, "init-data", attest.CodeHostData},
		{"with init-data of no report", stateArmed, 3, "open", &initData{}, attest.Evidence{TEE: attest.SEVSNP}, "init-data", attest.CodeHostData},
		{"with init-data of a cut report", stateArmed, 3, "open", &initData{}, attest.Evidence{TEE: attest.SEVSNP, Report: make([]byte, 0xc0+31)}, "init-data", attest.CodeHostData},
		{"with init-data of the least report", stateArmed, 3, "open", &initData{}, attest.Evidence{TEE: attest.SEVSNP, Report: make([]byte, 0xc0+32)}, "", ""},
		{"with init-data of TDX", stateArmed, 3, "open", &initData{host: host}, attest.Evidence{TEE: attest.TDX, Report: measured.Report}, "init-data", attest.CodeHostData},
	} {
		a := judgedAttempt(door.Attest)
		a.initData, a.evidence = c.data, c.ev
		checks, code := judgeStanding(a, c.state, c.epoch, c.volume)
		if got := namesOfFailed(checks); got != c.failed || code != c.code || len(a.result.Checks) != 1 {
			t.Errorf("%s: failed %q with code %q, want %q with %q", c.name, got, code, c.failed, c.code)
		}
	}
}

func TestChallengeIsRefused(t *testing.T) {
	for _, c := range []struct {
		t       target
		purpose door.Purpose
		code    string
		why     string
	}{
		{target{}, door.Unlock, CodeWorkspace, "unknown workspace or generation"},
		{target{volumeState: "shredding", armState: stateArmed}, door.Renew, CodeWorkspace, "the workspace's key is shredded"},
		{target{volumeState: "open", armState: stateSuspended}, door.Unlock, CodeSuspended, "the generation is suspended"},
		{target{volumeState: "open", armState: stateDisarmed}, door.Unlock, CodeGeneration, "the generation is not armed"},
		{target{volumeState: "open", armState: stateArmed}, door.Unlock, CodeWorkspace, "no key is prepared"},
		{target{volumeState: "open", armState: stateArmed}, door.Attest, "", ""},
		{target{volumeState: "open", armState: stateReleased}, door.Renew, "", ""},
		{target{volumeState: "open", armState: stateArmed, source: source{blobHash: []byte{1}}}, door.Unlock, "", ""},
	} {
		if code, why := c.t.refusal(door.ChallengeRequest{Purpose: c.purpose}); code != c.code || why != c.why {
			t.Errorf("%+v for %s: %q, %q", c.t, c.purpose, code, why)
		}
	}
}

func TestFactsOfAState(t *testing.T) {
	until := time.Date(2026, 3, 4, 5, 6, 7, 0, time.FixedZone("", 3600))
	for _, c := range []struct {
		s                  State
		guest, lease, seen string
		holds              [3]bool
	}{
		{State{}, "no key is prepared yet", "nobody holds the volume", "no evidence has been judged for this arming", [3]bool{false, true, false}},
		{State{Prepared: true}, "no generation is armed", "nobody holds the volume", "no evidence has been judged for this arming", [3]bool{false, true, false}},
		{State{Prepared: true, Armed: true}, "the generation is armed for one release", "nobody holds the volume", "no evidence has been judged for this arming", [3]bool{true, true, false}},
		{State{Prepared: true, Released: true, Stage: "ready", LeaseLive: true, LeaseUntil: until}, "the key was released to the guest of this generation", "held by this workspace's guest until 2026-03-04T04:06:07Z", "the guest's evidence was judged and accepted", [3]bool{true, true, true}},
		{State{Prepared: true, Released: true, Stage: "ready"}, "the key was released to the guest of this generation", "the lease has ended or run out, and the guest of this generation cannot renew it", "the guest's evidence was judged and accepted", [3]bool{true, false, true}},
		{State{Prepared: true, Suspended: true, Reason: "why"}, "the generation is suspended: why", "nobody holds the volume", "no evidence has been judged for this arming", [3]bool{false, true, false}},
		{State{Destruction: "gone", Suspended: true, Armed: true}, "gone", "nobody holds the volume", "no evidence has been judged for this arming", [3]bool{false, true, false}},
		{State{Prepared: true, Stage: "ready", Armed: true, LastRefusal: &LastRefusal{ID: "d", Code: attest.CodeTCB}}, "the generation is armed for one release", "nobody holds the volume", "the last evidence was refused (tcb), decision d", [3]bool{true, true, false}},
		{State{Prepared: true, Stage: "ready", Armed: true, LastRefusal: &LastRefusal{Code: CodeFreeze}}, "the generation is armed for one release", "nobody holds the volume", "the guest's evidence was judged and accepted", [3]bool{true, true, true}},
	} {
		g, l, a := guestFact(c.s), leaseFact(c.s), appraisalFact(c.s)
		if g.Why != c.guest || l.Why != c.lease || a.Why != c.seen || [3]bool{g.Holds, l.Holds, a.Holds} != c.holds {
			t.Errorf("%+v: %+v, %+v, %+v", c.s, g, l, a)
		}
		for _, f := range []permit.Fact{g, l, a} {
			if f.Holds != (f.Fix == "") {
				t.Errorf("%+v: %+v names who can mend it, or nobody", c.s, f)
			}
		}
	}
	for _, code := range []string{CodeNonce, CodeBinding, CodeGeneration, CodeSuspended, CodePermit, CodeProject, CodeImage, CodeFreeze, CodeLease, CodeKeyBlob, CodeRate, CodeWorkspace, CodeSecret} {
		if isAppraisal(code) {
			t.Errorf("%s is taken for the verifier's", code)
		}
	}
	if !isAppraisal(attest.CodeMeasurement) || !isAppraisal(attest.CodeHostData) {
		t.Error("a code of the verifier's is taken for the broker's")
	}
}

func TestActionOfPurpose(t *testing.T) {
	for p, want := range map[door.Purpose]string{door.Unlock: "key.release", door.Renew: "lease.renew", door.Attest: "guest.attest", purposeSecret: "secret.release"} {
		if got := judgedAttempt(p).action(); got != want {
			t.Errorf("%s: %s", p, got)
		}
	}
	for tee, name := range map[attest.TEE]string{attest.SEVSNP: "snp", attest.TDX: "tdx", "": ""} {
		if got := teeName(tee); got != name || teeOf(name) != tee {
			t.Errorf("%q is %q, and back %q", tee, got, teeOf(name))
		}
	}
}

func TestWordsOfAnArm(t *testing.T) {
	asked := [32]byte{1}
	a := Arm{Dataset: "d", Owner: "o", Image: "i", VolumeID: "v", VolumeSerial: "s"}
	good := armRow{dataset: "d", owner: "o", image: "i", volumeID: "v", volumeSerial: "s", asked: asked[:]}
	if !good.same(a, asked) {
		t.Error("an arm is not itself")
	}
	for name, change := range map[string]func(*armRow){
		"dataset": func(r *armRow) { r.dataset = "" }, "owner": func(r *armRow) { r.owner = "" }, "image": func(r *armRow) { r.image = "" },
		"volume": func(r *armRow) { r.volumeID = "" }, "serial": func(r *armRow) { r.volumeSerial = "" }, "policy": func(r *armRow) { r.asked = make([]byte, 32) },
	} {
		other := good
		change(&other)
		if other.same(a, asked) {
			t.Errorf("an arm of another %s is the same", name)
		}
	}
	for size, want := range map[int]int{0: 0, 499: 499, 500: 500, 501: 500} {
		if got := bound(strings.Repeat("x", size)); len(got) != want {
			t.Errorf("%d bytes are kept of %d", len(got), size)
		}
	}
	for got, want := range map[string]string{
		failedNames(nil): "", failedNames([]attest.Check{{Name: "a", Status: attest.Failed}, {Name: "b", Status: attest.Passed}, {Name: "c", Status: attest.Failed}}): "a, c",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if got := (&Refusal{ID: "d", Code: "c", Detail: "w"}).Error(); got != "refused (c), decision d: w" {
		t.Error(got)
	}
}

func TestChosenHash(t *testing.T) {
	for _, c := range []struct {
		offered []kbs.Hash
		want    kbs.Hash
	}{
		{nil, kbs.SHA384},
		{[]kbs.Hash{kbs.SHA256}, kbs.SHA256},
		{[]kbs.Hash{kbs.SHA256, kbs.SHA512}, kbs.SHA512},
		{[]kbs.Hash{kbs.SHA512, kbs.SHA384}, kbs.SHA384},
		{[]kbs.Hash{"sm3"}, kbs.SHA384},
	} {
		if got := choose(c.offered); got != c.want {
			t.Errorf("%v: %s", c.offered, got)
		}
	}
	seen := map[string]bool{}
	for range 32 {
		c := newCookie()
		u, err := hex.DecodeString(c)
		if err != nil || len(u) != 16 || u[6]>>4 != 4 || u[8]>>6 != 2 || seen[c] {
			t.Errorf("cookie %s", c)
		}
		seen[c] = true
	}
	var ones, zeros [16]byte
	for i := range ones {
		ones[i] = 0xff
	}
	for range 256 { // what is not fixed varies in every bit
		u, _ := hex.DecodeString(newCookie())
		for i := range u {
			ones[i] &= u[i]
			zeros[i] |= u[i]
		}
	}
	if want := [16]byte{6: 0x40, 8: 0x80}; ones != want || zeros != [16]byte(bytes.Join([][]byte{bytes.Repeat([]byte{0xff}, 6), {0x4f, 0xff, 0xbf}, bytes.Repeat([]byte{0xff}, 7)}, nil)) {
		t.Errorf("always %x, ever %x", ones, zeros)
	}
}

// The buckets, by a clock that stands: so many at once, one more after so long, never more than the burst.
func TestLimits(t *testing.T) {
	c := &clock{at: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	for name, row := range map[string]struct {
		pay   func(l *limits, key string) bool
		burst int
		every time.Duration
	}{
		"refusals of a peer": {func(l *limits, key string) bool {
			for _, back := range []float64{1, 1, 0} { // what is not refused costs nothing
				a := l.enter(context.Background(), key)
				if a == nil {
					return false
				}
				l.exit(a, back)
			}
			return true
		}, 60, time.Second},
		"challenges of a workspace":   {func(l *limits, key string) bool { return l.challenge(key, "p") }, 32, 2 * time.Second},
		"challenges for an address":   {func(l *limits, key string) bool { return l.challenge("w", key) }, 32, 2 * time.Second},
		"sessions":                    {(*limits).session, 300, 100 * time.Millisecond},
		"grants":                      {func(l *limits, key string) bool { return l.lease(key, time.Hour) }, 60, 10 * time.Second},
		"grants of short leases":      {func(l *limits, key string) bool { return l.lease(key, minLease) }, 60, minLease / 8},
		"tokens of a workspace":       {func(l *limits, key string) bool { return l.attest(key, judgedID) }, 30, 10 * time.Second},
		"tokens of a boot":            {func(l *limits, key string) bool { return l.attest("w", []byte(key)) }, 30, 10 * time.Second},
		"secrets":                     {(*limits).secret, 64, time.Second},
		"records of what is unproved": {func(l *limits, key string) bool { return l.record(key, unproved) }, 30, time.Minute},
		"records of what is proved":   {func(l *limits, key string) bool { return l.record(key, proved) }, 30, time.Minute},
		"records of our own":          {func(l *limits, key string) bool { return l.record(key, ours) }, 30, time.Minute},
	} {
		l := newLimits(c.now)
		use := func() (n int) {
			for row.pay(l, "a") {
				n++
			}
			return n
		}
		if got := use(); got != row.burst {
			t.Errorf("%s: %d at once, want %d", name, got, row.burst)
		}
		c.add(row.every - time.Millisecond)
		if got := use(); got != 0 {
			t.Errorf("%s: %d a moment too early", name, got)
		}
		c.add(2 * time.Millisecond)
		if got := use(); got != 1 {
			t.Errorf("%s: %d after %s", name, got, row.every)
		}
		if !row.pay(l, "b") {
			t.Errorf("%s: another pays for the first", name)
		}
		c.add(-time.Hour)
		if got := use(); got != 0 {
			t.Errorf("%s: %d when the clock goes back", name, got)
		}
		c.add(1000 * time.Hour)
		if got := use(); got != row.burst {
			t.Errorf("%s: %d after a long time, want %d", name, got, row.burst)
		}
	}
	l := newLimits(c.now)
	for i := range 16384 {
		l.challenge(fmt.Sprint(i), "p")
	}
	if len(l.challenges) != 16384 {
		t.Fatalf("%d buckets", len(l.challenges))
	}
	l.challenge("one more", "p")
	if _, there := l.challenges["one more p"]; len(l.challenges) != 16384 || !there {
		t.Errorf("%d buckets, the newest there: %t", len(l.challenges), there)
	}
	// What one cause has used up is there for the others, and only what is unproved is bounded for all workspaces together.
	l = newLimits(c.now)
	kept := 0
	for i := range 2000 {
		if l.record(fmt.Sprint(i), unproved) {
			kept++
		}
	}
	if kept != 1000 {
		t.Errorf("%d records of unproved evidence for all workspaces, want 1000", kept)
	}
	if l.record("w", unproved) || !l.record("w", proved) || !l.record("w", ours) {
		t.Error("what is unproved takes from what is proved")
	}
	for _, spent := range []cause{unproved, proved, ours} {
		l = newLimits(c.now)
		for l.record("w", spent) {
		}
		for _, why := range []cause{unproved, proved, ours} {
			if l.record("w", why) != (why != spent) {
				t.Errorf("%s, when %s is used up: one cause pays for another", why, spent)
			}
		}
	}
}

func TestAggregate(t *testing.T) {
	a := newAggregate()
	if _, any := a.entry(); any {
		t.Error("an entry about nothing")
	}
	a.add(CodeNonce)
	a.add(CodeNonce)
	a.add(CodeRate)
	e, any := a.entry()
	if !any || e.Outcome != audit.Refused || e.Action != "guest.refuse_many" || e.Code != "aggregate" || len(e.Details) != 2 || e.Details[CodeNonce] != 2 || e.Details[CodeRate] != 1 {
		t.Errorf("%+v", e)
	}
	if _, any := a.entry(); any {
		t.Error("the counts were not taken out")
	}
	a.add(CodeRate)
	a.restore(e)
	if e, _ := a.entry(); e.Details[CodeNonce] != 2 || e.Details[CodeRate] != 2 {
		t.Errorf("restored: %+v", e)
	}
}

func TestBoundedMap(t *testing.T) {
	b := newBounded[int, string](3)
	for i := range 3 {
		b.put(i, "x")
	}
	b.put(1, "y")
	if v, ok := b.get(1); len(b.m) != 3 || v != "y" || !ok {
		t.Errorf("%v", b.m)
	}
	b.put(7, "z")
	if v, ok := b.get(7); len(b.m) != 3 || v != "z" || !ok {
		t.Errorf("%v", b.m)
	}
	b.drop(func(k int) bool { return k != 7 })
	if _, ok := b.get(1); len(b.m) != 1 || ok {
		t.Errorf("%v", b.m)
	}
}
