//go:build devtee

package softpsp

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/lab/devfirmware"
	"github.com/eosc-siesta/siestad/internal/lab/port"
)

var at = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func bench(t *testing.T) (*PSP, attest.Collateral) {
	t.Helper()
	p, err := New(Config{Now: at})
	if err != nil {
		t.Fatal(err)
	}
	roots, err := attest.AMDRoots().WithSimulated(Line, p.Roots())
	if err != nil {
		t.Fatal(err)
	}
	return p, attest.Collateral{Roots: roots}
}

func policy(p *PSP, measurement [48]byte, reportData [64]byte) attest.Policy {
	pol := attest.NovaPolicy(map[string]attest.TCB{p.ProductLine(): p.TCB()})
	chip := p.ChipID()
	pol.Chips, pol.Measurements, pol.ReportData = [][]byte{chip[:]}, [][]byte{measurement[:]}, reportData
	pol.RequireAliasCheck, pol.Simulated = true, true
	return pol
}

func measured(t *testing.T) [48]byte {
	t.Helper()
	kernel := [32]byte{1}
	sig, _ := attest.VCPUSig("EPYC-Genoa")
	m, err := attest.LaunchDigest(attest.DigestInput{
		Firmware: devfirmware.Generate(), KernelSHA256: &kernel, Append: "siesta.gen=1", VCPUs: 2, VCPUSig: sig, GuestFeatures: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func code(t *testing.T, err error) string {
	t.Helper()
	var r *attest.Refusal
	if !errors.As(err, &r) {
		t.Fatalf("got %v, want a refusal", err)
	}
	return r.Code
}

func TestSimulatedReportPassesOnlyUnderItsRoots(t *testing.T) {
	p, col := bench(t)
	m := measured(t)
	machine, err := p.Launch(func() ([48]byte, error) { return m, nil })
	if err != nil {
		t.Fatal(err)
	}
	data := [64]byte{1, 2, 3}
	report, err := machine.Report(data)
	if err != nil {
		t.Fatal(err)
	}
	ev := attest.Evidence{TEE: attest.SEVSNP, Report: report, Certificates: p.Certificates()}
	pol := policy(p, m, data)
	res, err := attest.Verify(ev, col, pol, at)
	if err != nil {
		t.Fatal(err)
	}
	if !res.Simulated || res.Product != Line || res.ReportID != machine.ReportID() || res.Measurement != m {
		t.Errorf("result %+v", res)
	}
	registered := col
	chip := p.ChipID()
	registered.VCEKs = map[string][][]byte{attest.ChipKey(chip[:]): {p.VCEK()}}
	bare := ev
	bare.Certificates = nil
	if _, err := attest.Verify(bare, registered, pol, at); err != nil {
		t.Errorf("with the chip's certificate registered: %v", err)
	}
	if _, err := attest.Verify(ev, attest.Collateral{Roots: attest.AMDRoots()}, pol, at); code(t, err) != attest.CodeChain {
		t.Errorf("under AMD's roots: %v", err)
	}
	genuine := pol
	genuine.Simulated = false
	if _, err := attest.Verify(ev, col, genuine, at); code(t, err) != attest.CodeChain {
		t.Errorf("for a policy of genuine hardware: %v", err)
	}
	if _, err := attest.Verify(ev, col, pol, at.AddDate(8, 0, 0)); code(t, err) != attest.CodeChain {
		t.Errorf("after the certificate expired: %v", err)
	}
	other, _ := bench(t)
	ev.Certificates = other.Certificates()
	if _, err := attest.Verify(ev, col, pol, at); code(t, err) != attest.CodeChain {
		t.Errorf("with another machine's certificate: %v", err)
	}
}

// TestEveryGateRefuses alters one thing of a good report at a time; each signature
// is good, so only the named gate can refuse.
func TestEveryGateRefuses(t *testing.T) {
	p, col := bench(t)
	m, data := measured(t), [64]byte{7}
	set := func(at int, b ...byte) func([]byte) { return func(r []byte) { copy(r[at:], b) } }
	for name, row := range map[string]struct {
		alter func([]byte)
		code  string
	}{
		"unknown version":               {set(0x000, 4), attest.CodeVersion},
		"version of tomorrow":           {set(0x000, 6), attest.CodeVersion},
		"unknown processor":             {set(0x188, 0x1b), attest.CodeProduct},
		"Milan's processor":             {set(0x189, 0x01), attest.CodeChain},
		"Turin's processor":             {set(0x188, 0x1a, 0x02), attest.CodeChain},
		"bit 17 of the guest policy":    {set(0x008+2, 0x01), attest.CodeFormat},
		"unknown guest policy bit":      {set(0x008+3, 0x04), attest.CodeFormat},
		"unknown platform bit":          {set(0x040, 0x65), attest.CodeFormat},
		"unknown key bit":               {set(0x048, 0x20), attest.CodeFormat},
		"mitigations before version 5":  {set(0x1f8, 1), attest.CodeFormat},
		"behind the mitigations":        {set(0x208, 1), attest.CodeFormat},
		"behind the stepping":           {set(0x18b, 1), attest.CodeFormat},
		"signature algorithm":           {set(0x034, 2), attest.CodeFormat},
		"signed with VLEK":              {set(0x048, 1<<2), attest.CodeKeyType},
		"not signed":                    {set(0x048, 7<<2), attest.CodeKeyType},
		"author key":                    {set(0x048, 1), attest.CodeIDBlock},
		"masked chip flag":              {set(0x048, 2), attest.CodeChip},
		"masked chip":                   {set(0x1a0, make([]byte, 64)...), attest.CodeChip},
		"another chip":                  {set(0x1a0, 0xaa, 0xbb, 0xcc), attest.CodeChip},
		"debug":                         {set(0x008+2, 0x0b), attest.CodeDebug},
		"migration agent allowed":       {set(0x008+2, 0x07), attest.CodeMigration},
		"migration agent present":       {set(0x160, 1), attest.CodeMigration},
		"VMPL 1":                        {set(0x030, 1), attest.CodeVMPL},
		"no SMT":                        {set(0x008+2, 0x02), attest.CodePolicy},
		"ABI minor":                     {set(0x008, 0x1f), attest.CodePolicy},
		"id key":                        {set(0x0e0, 1), attest.CodeIDBlock},
		"author key digest":             {set(0x110, 1), attest.CodeIDBlock},
		"host data":                     {set(0x0c0+31, 1), attest.CodeHostData},
		"measurement":                   {set(0x090+47, 0xff, 0xff), attest.CodeMeasurement},
		"no measurement":                {set(0x090, make([]byte, 48)...), attest.CodeMeasurement},
		"report data":                   {set(0x050+63, 1), attest.CodeReportData},
		"reported TCB below":            {set(0x180+6, 26), attest.CodeTCB},
		"reported TCB above":            {set(0x180+6, 28), attest.CodeTCB},
		"committed TCB below":           {set(0x1e0+7, 26), attest.CodeTCB},
		"launch TCB below":              {set(0x1f0, 9), attest.CodeTCB},
		"committed above current":       {set(0x038, 9), attest.CodeTCB},
		"reserved byte of a TCB":        {set(0x038+3, 1), attest.CodeTCB},
		"memory not checked":            {set(0x040, 0x05), attest.CodePlatform},
		"reserved byte":                 {set(0x04c, 1), attest.CodeFormat},
		"debug before all policy rules": {func(r []byte) { r[0x00a] = 0x0b; r[0x090] ^= 1; r[0x050] ^= 1; r[0x0c0] = 1 }, attest.CodeDebug},
	} {
		report, err := p.Sign(Report{Measurement: m, ReportData: data, ReportID: [32]byte{1}, Alter: row.alter})
		if err != nil {
			t.Fatal(err)
		}
		_, err = attest.Verify(attest.Evidence{TEE: attest.SEVSNP, Report: report, Certificates: p.Certificates()}, col, policy(p, m, data), at)
		if got := code(t, err); got != row.code {
			t.Errorf("%s: code %q, want %q (%v)", name, got, row.code, err)
		}
	}
}

// TestEveryFailureIsListed shows that one refusal names all that is wrong.
func TestEveryFailureIsListed(t *testing.T) {
	p, col := bench(t)
	m, data := measured(t), [64]byte{7}
	report, err := p.Sign(Report{Measurement: m, ReportData: data, Alter: func(r []byte) {
		r[0x00a], r[0x090], r[0x050], r[0x0c0], r[0x030] = 0x0b, r[0x090]^1, 0, 1, 3
	}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = attest.Verify(attest.Evidence{TEE: attest.SEVSNP, Report: report, Certificates: p.Certificates()}, col, policy(p, m, data), at)
	var refusal *attest.Refusal
	if !errors.As(err, &refusal) {
		t.Fatal(err)
	}
	var failed []string
	for _, c := range refusal.Checks {
		if c.Status == attest.Failed {
			failed = append(failed, c.Code)
		}
	}
	if got := strings.Join(failed, " "); got != "debug vmpl measurement report_data policy host_data" {
		t.Errorf("failed checks: %s", got)
	}
}

func TestReportIDLivesAsLongAsTheLaunch(t *testing.T) {
	p, _ := bench(t)
	asked := 0
	launch := func() *Machine {
		m, err := p.Launch(func() ([48]byte, error) { asked++; return [48]byte{byte(asked)}, nil })
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	id := func(m *Machine) (out [32]byte) {
		r, err := m.Report([64]byte{1})
		if err != nil {
			t.Fatal(err)
		}
		return [32]byte(r[0x140:0x160])
	}
	first := launch()
	a, b := id(first), id(first)
	if a != b || asked != 1 {
		t.Errorf("one launch, two report ids, or measured %d times", asked)
	}
	if second := launch(); id(second) == a {
		t.Error("two launches share a report id")
	}
	first.End()
	if _, err := first.Report([64]byte{1}); !errors.Is(err, ErrEnded) {
		t.Errorf("a launch that ended gave a report: %v", err)
	}
	failing, err := p.Launch(func() ([48]byte, error) { return [48]byte{}, errors.New("no such guest") })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := failing.Report([64]byte{}); err == nil {
		t.Error("a report without a measurement")
	}
}

func TestServe(t *testing.T) {
	p, col := bench(t)
	m := measured(t)
	host, guest := net.Pipe()
	done := make(chan error, 1)
	go func() { done <- p.Serve(host, func() ([48]byte, error) { return m, nil }) }()
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
	for _, bad := range []string{`{`, `{}`, `{"report_data":"00"}`, `{"measurement":"00"}`, `{"report_data":"` + strings.Repeat("x", 128) + `"}`} {
		if a := ask(bad); a.Error == "" || a.Report != nil {
			t.Errorf("%s: %+v", bad, a)
		}
	}
	data := [64]byte{9}
	a := ask(`{"report_data":"` + hex.EncodeToString(data[:]) + `"}`)
	again := ask(`{"report_data":"` + hex.EncodeToString(data[:]) + `"}`)
	if !bytes.Equal(a.Report[0x140:0x160], again.Report[0x140:0x160]) {
		t.Error("one connection, two report ids")
	}
	if _, err := attest.Verify(attest.Evidence{TEE: attest.SEVSNP, Report: a.Report, Certificates: a.Certs}, col, policy(p, m, data), at); err != nil {
		t.Error(err)
	}
	if err := guest.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("serving: %v", err)
	}
}
