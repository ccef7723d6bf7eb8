//go:build devtee

package softtd

import (
	"bufio"
	"bytes"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/lab/port"
)

var (
	at   = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	from = at.AddDate(0, 0, -10)
	end  = at.AddDate(0, 0, 20)
	data = [64]byte{7, 63: 9}
	boot = Boot{
		MRTD: sum("firmware"), Kernel: sum("kernel"), Initrd: sum("initrd"),
		Line: "console=ttyS0 siesta.ws=01jqqqqqqqqqqqqqqqqqqqqqqq siesta.gen=1",
	}
)

func bench(t testing.TB, version int) (*Platform, *attest.Roots, attest.Collateral) {
	t.Helper()
	p, err := New(Config{Version: version, Now: at})
	if err != nil {
		t.Fatal(err)
	}
	roots, err := attest.AMDRoots().WithSimulatedIntel(p.Root())
	if err != nil {
		t.Fatal(err)
	}
	return p, roots, collateral(t, roots, p, from, end)
}

func collateral(t testing.TB, roots *attest.Roots, p *Platform, from, end time.Time) attest.Collateral {
	t.Helper()
	objects, err := p.Collateral(from, end)
	if err != nil {
		t.Fatal(err)
	}
	col, err := attest.NewCollateral(roots, objects)
	if err != nil {
		t.Fatal(err)
	}
	return col
}

// policy is that of a workspace: of the registers it names the kernel, by its value, and line and initrd, by the log.
func policy(p *Platform) attest.Policy {
	td := attest.NovaTDXPolicy()
	ppid := p.PPID()
	_, rtmrs := boot.EventLog()
	td.Platforms, td.MRTDs = [][]byte{ppid[:]}, [][]byte{boot.MRTD[:]}
	td.XFAM = attest.MaskedBits{Mask: ^uint64(0), Value: XFAM}
	td.RTMRs = [4]attest.RTMRRule{{Any: true}, {Values: [][]byte{rtmrs[1][:]}}, {Any: true}, {Values: [][]byte{make([]byte, 48)}}}
	td.CommandLine, td.Initrds = boot.Line, [][]byte{boot.Initrd[:]}
	return attest.Policy{ReportData: data, TDX: &td, Simulated: true}
}

// of is the evidence of a boot, altered or not.
func of(t testing.TB, p *Platform, b Boot, alter func([]byte)) attest.Evidence {
	t.Helper()
	log, rtmrs := b.EventLog()
	quote, err := p.Sign(Quote{MRTD: b.MRTD, RTMRs: rtmrs, ReportData: data, Alter: alter})
	if err != nil {
		t.Fatal(err)
	}
	return attest.Evidence{TEE: attest.TDX, Report: quote, EventLog: log}
}

func TestQuoteIsAccepted(t *testing.T) {
	for version, form := range map[int]string{4: "v4", 5: "v5-tdx1.5"} {
		p, _, col := bench(t, version)
		res, err := attest.Verify(of(t, p, boot, nil), col, policy(p), at)
		if err != nil {
			t.Fatalf("version %d: %v", version, err)
		}
		if !res.Simulated || !res.TDX.EventLog || res.TDX.Form != form || res.TDX.PPID != p.PPID() || res.Product != FMSPC ||
			res.TCBStatus != "UpToDate" || res.TDX.ModuleStatus != "UpToDate" || res.EvaluationNumber != dataSet {
			t.Errorf("version %d: %+v %+v", version, res, res.TDX)
		}
	}
}

// TestRefusals changes one thing at a time; each signature is good, so that only the named gate can refuse.
func TestRefusals(t *testing.T) {
	p, roots, col := bench(t, 4)
	sibling, err := p.Sibling()
	if err != nil {
		t.Fatal(err)
	}
	stranger, _, _ := bench(t, 4)
	other := func(change func(*Boot)) attest.Evidence {
		b := boot
		change(&b)
		return of(t, p, b, nil)
	}
	good := of(t, p, boot, nil)
	without := func(change func(*attest.Evidence)) attest.Evidence {
		ev := good
		change(&ev)
		return ev
	}
	genuine := policy(p)
	genuine.Simulated = false
	for name, row := range map[string]struct {
		ev   attest.Evidence
		col  attest.Collateral
		pol  attest.Policy
		code string
	}{
		"another line":     {ev: other(func(b *Boot) { b.Line += " quiet" }), code: attest.CodeRTMR},
		"another initrd":   {ev: other(func(b *Boot) { b.Initrd[0] ^= 1 }), code: attest.CodeRTMR},
		"another kernel":   {ev: other(func(b *Boot) { b.Kernel[0] ^= 1 }), code: attest.CodeRTMR},
		"another firmware": {ev: other(func(b *Boot) { b.MRTD[0] ^= 1 }), code: attest.CodeMeasurement},
		"debug": {ev: of(t, p, boot, func(q []byte) {
			binary.LittleEndian.PutUint64(q[AttributesAt:], attest.NovaTDAttributes|1)
		}), code: attest.CodeDebug},
		"other features":     {ev: of(t, p, boot, func(q []byte) { q[XFAMAt] = 3 }), code: attest.CodeAttributes},
		"other report data":  {ev: of(t, p, boot, func(q []byte) { q[ReportDataAt] ^= 1 }), code: attest.CodeReportData},
		"a measured guest":   {ev: of(t, p, boot, func(q []byte) { q[RTMRsAt+3*48] = 1 }), code: attest.CodeEventLog},
		"another platform":   {ev: of(t, sibling, boot, nil), code: attest.CodeChip},
		"another Intel":      {ev: of(t, stranger, boot, nil), code: attest.CodeChain},
		"no event log":       {ev: without(func(ev *attest.Evidence) { ev.EventLog = nil }), code: attest.CodeEventLog},
		"another boot's log": {ev: without(func(ev *attest.Evidence) { ev.EventLog, _ = Boot{}.EventLog() }), code: attest.CodeEventLog},
		"changed afterwards": {ev: without(func(ev *attest.Evidence) {
			ev.Report = bytes.Clone(ev.Report)
			ev.Report[MRTDAt] ^= 1
		}), code: attest.CodeSignature},
		"expired collateral": {col: collateral(t, roots, p, from, at), code: attest.CodeCollateral},
		"no collateral":      {col: attest.Collateral{Roots: roots}, code: attest.CodeCollateral},
		"a genuine policy":   {pol: genuine, code: attest.CodeChain},
	} {
		if row.ev.TEE == "" {
			row.ev = good
		}
		if row.col.Roots == nil {
			row.col = col
		}
		if row.pol.TDX == nil {
			row.pol = policy(p)
		}
		var refusal *attest.Refusal
		if _, err := attest.Verify(row.ev, row.col, row.pol, at); !errors.As(err, &refusal) || refusal.Code != row.code {
			t.Errorf("%s: %v, want code %s", name, err, row.code)
		}
	}
	// What the table begins with passes, so that no row fails for another reason.
	if _, err := attest.Verify(good, col, policy(p), at); err != nil {
		t.Error(err)
	}
}

// TestDecisionReplays: the decision on a simulated trust domain is taken again from its bytes, under the roots that it was
// taken under and under no others.
func TestDecisionReplays(t *testing.T) {
	p, roots, col := bench(t, 4)
	stored, err := json.Marshal(attest.NewBundle(of(t, p, boot, nil), col, policy(p), at))
	if err != nil {
		t.Fatal(err)
	}
	var b attest.Bundle
	if err := json.Unmarshal(stored, &b); err != nil {
		t.Fatal(err)
	}
	if d, err := b.ReplayUnder(roots); err != nil || d.Outcome != attest.Accepted || !d.Simulated || len(d.Objects) != 6 {
		t.Errorf("%s, simulated %t, %d objects, %v", d.Outcome, d.Simulated, len(d.Objects), err)
	}
	if _, err := b.Replay(); err == nil {
		t.Error("it replays under Intel's root")
	}
}

// TestEventsAreThoseOfOVMF: what does not differ from guest to guest stands in a log that real firmware and a real kernel
// wrote, digest by digest.
func TestEventsAreThoseOfOVMF(t *testing.T) {
	ovmf, err := os.ReadFile("../../attest/testdata/tdx/ccel-ovmf.bin")
	if err != nil {
		t.Fatal(err)
	}
	log, rtmrs := boot.EventLog()
	for _, said := range []string{
		"Calling EFI Application from Boot Option", "\x00\x00\x00\x00", "Exit Boot Services Invocation",
		"Exit Boot Services Returned with Success", variable("SecureBoot"), variable("PK"), variable("KEK"),
	} {
		digest := sum(said)
		if !bytes.Contains(ovmf, digest[:]) || !bytes.Contains(log, digest[:]) {
			t.Errorf("%q is not measured as firmware measures it", said)
		}
	}
	const header = 65
	if !bytes.Equal(log[:header], ovmf[:header]) {
		t.Errorf("the log begins with %x", log[:header])
	}
	// The registers that a launch with these files has, from first principles.
	var kernel, line [48]byte
	for _, d := range [][48]byte{
		boot.Kernel, sum("Calling EFI Application from Boot Option"), sum("\x00\x00\x00\x00"),
		sum("Exit Boot Services Invocation"), sum("Exit Boot Services Returned with Success"),
	} {
		kernel = sha512.Sum384(append(kernel[:], d[:]...))
	}
	for _, d := range [][48]byte{sum(wide(boot.Line + " initrd=initrd\x00")), boot.Initrd} {
		line = sha512.Sum384(append(line[:], d[:]...))
	}
	if rtmrs[1] != kernel || rtmrs[2] != line || rtmrs[3] != [48]byte{} || rtmrs[0] == [48]byte{} {
		t.Errorf("registers %x", rtmrs)
	}
}

func TestConfig(t *testing.T) {
	ppid := [16]byte{1, 2}
	p, err := New(Config{PPID: ppid, Now: at})
	if err != nil || p.PPID() != ppid {
		t.Errorf("%x, %v", p.PPID(), err)
	}
	sibling, err := p.Sibling()
	if err != nil || sibling.PPID() == ppid || sibling.PPID() == [16]byte{} || !bytes.Equal(sibling.Root(), p.Root()) {
		t.Errorf("a sibling: %x, %v", sibling.PPID(), err)
	}
	for name, c := range map[string]Config{"no time": {}, "version 3": {Version: 3, Now: at}} {
		if _, err := New(c); err == nil {
			t.Errorf("%s: made", name)
		}
	}
}

func TestMachine(t *testing.T) {
	p, _, _ := bench(t, 4)
	asked := 0
	m := p.Launch(func() (Boot, error) { asked++; return boot, nil })
	for range 2 {
		if _, _, err := m.Quote(data); err != nil {
			t.Fatal(err)
		}
	}
	if asked != 1 {
		t.Errorf("measured %d times", asked)
	}
	m.End()
	if _, _, err := m.Quote(data); !errors.Is(err, ErrEnded) {
		t.Errorf("a launch that ended gave a quote: %v", err)
	}
	failing := p.Launch(func() (Boot, error) { return Boot{}, errors.New("no such guest") })
	if quote, log, err := failing.Quote(data); err == nil || quote != nil || log != nil {
		t.Error("a quote without a measurement")
	}
}

func TestServe(t *testing.T) {
	p, _, col := bench(t, 4)
	host, guest := net.Pipe()
	done := make(chan error, 1)
	go func() { done <- p.Serve(host, func() (Boot, error) { return boot, nil }) }()
	lines := bufio.NewReader(guest)
	ask := func(line string) (a port.Answer) {
		if _, err := io.WriteString(guest, line+"\n"); err != nil {
			t.Fatal(err)
		}
		reply, err := lines.ReadBytes('\n')
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(reply, &a); err != nil {
			t.Fatal(err)
		}
		return a
	}
	if a := ask(`{"report_data":"00"}`); a.Error == "" || a.Report != nil || a.EventLog != nil {
		t.Errorf("%+v", a)
	}
	a := ask(`{"report_data":"` + hex.EncodeToString(data[:]) + `"}`)
	if _, err := attest.Verify(attest.Evidence{TEE: attest.TEE(a.TEE), Report: a.Report, EventLog: a.EventLog}, col, policy(p), at); err != nil {
		t.Error(err)
	}
	if err := guest.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("serving: %v", err)
	}
}
