package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/eosc-siesta/siestad/internal/attest"
)

// today is the clock of all tests here.
var today = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// sv runs the command as main does, with a clock and a standard input of its own.
func sv(stdin []byte, args ...string) (status int, out, errs string) {
	var o, e bytes.Buffer
	status = run(args, bytes.NewReader(stdin), &o, &e, func() time.Time { return today })
	return status, o.String(), e.String()
}

// put writes a file of the test's own.
func put(t testing.TB, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// judged is the answer of `evidence … -o json`, whose members are held to the
// documented ones, in their order.
func judged(t testing.TB, args ...string) (int, answer) {
	t.Helper()
	status, out, errs := sv(nil, append([]string{"evidence", "-o", "json"}, args...)...)
	if status == 2 {
		t.Fatalf("not judged: %s", errs)
	}
	var a answer
	dec := json.NewDecoder(strings.NewReader(out))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&a); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	want := []string{"tee", "product", "genuine", "tcb_status", "checks", "verdict", "code"}
	if got := names(t, out); !slices.Equal(got, want) {
		t.Errorf("members %q, want %q", got, want)
	}
	if (status == 0) != (a.Verdict == "accepted") || (a.Code == "") != (a.Verdict == "accepted") || len(a.Checks) == 0 {
		t.Errorf("status %d with verdict %q, code %q and %d checks", status, a.Verdict, a.Code, len(a.Checks))
	}
	return status, a
}

// names gives the members of a JSON object in the order in which they stand.
func names(t testing.TB, text string) (out []string) {
	t.Helper()
	dec := json.NewDecoder(strings.NewReader(text))
	if _, err := dec.Token(); err != nil {
		t.Fatal(err)
	}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, name.(string))
		var skipped json.RawMessage
		if err := dec.Decode(&skipped); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// find gives the status of one check.
func find(checks []attest.Check, name string) attest.Status {
	for _, c := range checks {
		if c.Name == name {
			return c.Status
		}
	}
	return ""
}

// TestVerdicts holds every genuine input to what is known of it. Without a policy
// nothing is ever accepted.
func TestVerdicts(t *testing.T) {
	const (
		milan, siena = data + "milan-v2-report.bin", data + "siena-v5-report.bin"
		milanCert    = data + "milan-v2-vcek.der"
		sienaCert    = data + "siena-v5-vcek.der"
		sienaJSON    = data + "siena-v3-kbs-evidence.json"
	)
	for name, row := range map[string]struct {
		args    []string
		genuine bool
		tee     attest.TEE
		product string
		code    string
	}{
		"Milan v2":                       {[]string{milan, "--cert", milanCert}, true, attest.SEVSNP, "Milan", "id_block"},
		"Milan v2, certificate expired":  {[]string{milan, "--cert", milanCert, "--at", "2030-01-25T00:00:00Z"}, false, attest.SEVSNP, "Milan", "chain"},
		"Milan v2, certificate made up":  {[]string{milan, "--cert", data + "milan-v2-vcek-invalid-legacy.der"}, false, attest.SEVSNP, "Milan", "chain"},
		"Milan v2, the other made up":    {[]string{milan, "--cert", data + "milan-v2-vcek-invalid-new.der"}, false, attest.SEVSNP, "Milan", "chain"},
		"Milan v2, both and the good":    {[]string{milan, "--cert", data + "milan-v2-vcek-invalid-new.der", "--cert", milanCert}, true, attest.SEVSNP, "Milan", "id_block"},
		"Milan v2 without certificate":   {[]string{milan}, false, attest.SEVSNP, "", "collateral"},
		"Milan v2, certificate of Siena": {[]string{milan, "--cert", sienaCert}, false, attest.SEVSNP, "Genoa", "signature"},
		"debug guest":                    {[]string{data + "debug-v2-report.bin", "--cert", data + "debug-v2-vcek.der"}, true, attest.SEVSNP, "Milan", "debug"},
		"Siena v3 of a client":           {[]string{sienaJSON}, true, attest.SEVSNP, "Genoa", "no_reference_value"},
		"Siena v3, another's cert first": {[]string{sienaJSON, "--cert", sienaCert}, true, attest.SEVSNP, "Genoa", "no_reference_value"},
		"Siena v3 before its time":       {[]string{sienaJSON, "--at", "2025-05-26T00:00:00Z"}, false, attest.SEVSNP, "Genoa", "chain"},
		"Siena v5":                       {[]string{siena, "--cert", sienaCert}, true, attest.SEVSNP, "Genoa", "no_reference_value"},
		"Siena v5 before its time":       {[]string{siena, "--cert", sienaCert, "--at", "2026-02-16T00:00:00Z"}, false, attest.SEVSNP, "Genoa", "chain"},
		"Siena v5, certificate of Milan": {[]string{siena, "--cert", milanCert}, false, attest.SEVSNP, "Genoa", "chain"},
		"Siena v5, certificate of Turin": {[]string{siena, "--cert", data + "turin-vcek.der"}, false, attest.SEVSNP, "Genoa", "chain"},
		"Siena v5, Turin's chain only":   {[]string{siena, "--cert", data + "turin-cert-chain.pem"}, false, attest.SEVSNP, "Genoa", "collateral"},
		"Siena v5, chain and leaf":       {[]string{siena, "--cert", data + "turin-cert-chain.pem", "--cert", sienaCert}, true, attest.SEVSNP, "Genoa", "no_reference_value"},
		"Siena v5, certificate table":    {[]string{siena, "--cert", put(t, table(load(t, "turin-vcek.der"), load(t, "siena-v5-vcek.der")))}, true, attest.SEVSNP, "Genoa", "no_reference_value"},
		"Siena v5, its report data":      {[]string{siena, "--cert", sienaCert, "--report-data", "68656c6c6f2d6174746573746174696f6e"}, true, attest.SEVSNP, "Genoa", "no_reference_value"},
		"Siena v5, other report data":    {[]string{siena, "--cert", sienaCert, "--report-data", "0x00ff"}, true, attest.SEVSNP, "Genoa", "report_data"},
		"Siena v5, Intel's CRL":          {[]string{siena, "--cert", sienaCert, "--cert", data + "tdx/root-ca-crl.der"}, true, attest.SEVSNP, "Genoa", "collateral"},
		"report cut":                     {[]string{put(t, load(t, "siena-v5-report.bin")[:1183]), "--cert", sienaCert}, false, attest.SEVSNP, "", "format"},
		"report continued":               {[]string{put(t, append(load(t, "siena-v5-report.bin"), 0)), "--cert", sienaCert}, false, attest.SEVSNP, "", "format"},
		"report of version 9":            {[]string{put(t, flip(load(t, "siena-v5-report.bin"), 0, 5^9)), "--cert", sienaCert}, false, attest.SEVSNP, "Genoa", "version"},
		"one bit of the measurement":     {[]string{put(t, flip(load(t, "siena-v5-report.bin"), 0x90, 1)), "--cert", sienaCert}, false, attest.SEVSNP, "Genoa", "signature"},
		"sample evidence":                {[]string{put(t, []byte(`{"svn":"1","report_data":"AAAA"}`))}, false, "sample", "", "format"},
	} {
		t.Run(name, func(t *testing.T) {
			status, a := judged(t, row.args...)
			got := []any{status, a.Genuine, attest.TEE(a.TEE), a.Product, a.Code, find(a.Checks, noReference.Name)}
			want := []any{1, row.genuine, row.tee, row.product, row.code, attest.Failed}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("want -, got +\n%s", diff)
			}
		})
	}
}

func flip(b []byte, at int, mask byte) []byte {
	out := bytes.Clone(b)
	out[at] ^= mask
	return out
}

// within is the policy that a report keeps, changed by the rows of a test.
func within(t testing.TB, report []byte, change func(*attest.Policy)) string {
	t.Helper()
	tcb := attest.TCB{Bootloader: report[0x180], TEE: report[0x181], SNP: report[0x186], Microcode: report[0x187]}
	p := attest.NovaPolicy(map[string]attest.TCB{attest.Genoa: tcb})
	p.RequirePolicy = binary.LittleEndian.Uint64(report[8:])
	p.Measurements = [][]byte{report[0x90:0xc0]}
	p.Chips = [][]byte{report[0x1a0:0x1e0]}
	if change != nil {
		change(&p)
	}
	text, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	return put(t, text)
}

func TestPolicy(t *testing.T) {
	report := load(t, "siena-v5-report.bin")
	hello := hex.EncodeToString([]byte("hello-attestation"))
	base := []string{data + "siena-v5-report.bin", "--cert", data + "siena-v5-vcek.der"}
	for name, row := range map[string]struct {
		change func(*attest.Policy)
		args   []string
		code   string
	}{
		"kept":              {nil, []string{"--report-data", hello}, ""},
		"no report data":    {nil, nil, "report_data"},
		"other report data": {nil, []string{"--report-data", hello + "01"}, "report_data"},
		"other measurement": {func(p *attest.Policy) { p.Measurements[0] = bytes.Repeat([]byte{1}, 48) }, []string{"--report-data", hello}, "measurement"},
		"no measurement":    {func(p *attest.Policy) { p.Measurements = nil }, []string{"--report-data", hello}, "measurement"},
		"other chip":        {func(p *attest.Policy) { p.Chips = nil }, []string{"--report-data", hello}, "chip"},
		"higher floor": {func(p *attest.Policy) {
			p.MinTCB = map[string]attest.TCB{attest.Genoa: {Microcode: 255}}
		}, []string{"--report-data", hello}, "tcb"},
		"no revocation list": {func(p *attest.Policy) { p.Revocation = attest.RevocationRequired }, []string{"--report-data", hello}, "collateral"},
	} {
		t.Run(name, func(t *testing.T) {
			status, a := judged(t, slices.Concat(base, []string{"--policy", within(t, report, row.change)}, row.args)...)
			if a.Code != row.code || (status == 0) != (row.code == "") || !a.Genuine || find(a.Checks, noReference.Name) != "" {
				t.Errorf("status %d, code %q, want %q; genuine %v", status, a.Code, row.code, a.Genuine)
			}
		})
	}
}

// TestStandardInput: the same verdict, whether the bytes come from a file or not.
func TestStandardInput(t *testing.T) {
	_, fromFile, _ := sv(nil, "evidence", data+"siena-v3-kbs-evidence.json", "-o", "json")
	status, out, _ := sv(load(t, "siena-v3-kbs-evidence.json"), "evidence", "-", "-o", "json")
	if status != 1 || out != fromFile || out == "" {
		t.Errorf("status %d; %s", status, cmp.Diff(fromFile, out))
	}
}

// TestWrapped: a client's evidence is the same evidence in all its wrappings.
func TestWrapped(t *testing.T) {
	inner := string(load(t, "siena-v3-kbs-evidence.json"))
	quoted, err := json.Marshal(inner)
	if err != nil {
		t.Fatal(err)
	}
	_, want, _ := sv([]byte(inner), "evidence", "-")
	for name, text := range map[string]string{
		"primary":          `{"primary_evidence":` + inner + `,"additional_evidence":""}`,
		"request":          `{"init-data":null,"runtime-data":{"nonce":"AA=="},"tee-evidence":{"primary_evidence":` + inner + `,"additional_evidence":""}}`,
		"string":           `{"primary_evidence":` + string(quoted) + `}`,
		"blanks before it": "\n\n  " + inner,
	} {
		if _, out, errs := sv([]byte(text), "evidence", "-"); out != want || errs != "" {
			t.Errorf("%s: %s%s", name, cmp.Diff(want, out), errs)
		}
	}
	_, out, errs := sv([]byte(`{"primary_evidence":`+inner+`,"additional_evidence":"{\"nvidia\":{}}"}`), "evidence", "-")
	if out != want || !strings.Contains(errs, "further devices") {
		t.Errorf("with devices: %s, %q", cmp.Diff(want, out), errs)
	}
	// coconut-svsm's form of another report.
	svsm, err := json.Marshal(map[string][]byte{"snp-report": load(t, "siena-v5-report.bin"), "certs-buf": table(load(t, "siena-v5-vcek.der"))})
	if err != nil {
		t.Fatal(err)
	}
	_, a := judged(t, put(t, svsm))
	if !a.Genuine || a.Code != noReference.Code {
		t.Errorf("SVSM: genuine %v, code %q", a.Genuine, a.Code)
	}
}

// TestRecordings: what stock clients sent is recognised as it stood on the wire,
// and refused for what it is: made up, or signed by a simulation.
func TestRecordings(t *testing.T) {
	const recordings = "../../internal/kbs/testdata/recordings/"
	for name, row := range map[string]struct {
		tee  attest.TEE
		code string
	}{
		"sample-attest":             {"sample", "format"},
		"sample-get-resource-rsa":   {"sample", "format"},
		"sample-initdata":           {"sample", "format"},
		"snp-simroots-get-resource": {attest.SEVSNP, "chain"},
		"snp-simulated-refused":     {attest.SEVSNP, "chain"},
		"aproxy-simroots":           {attest.SEVSNP, "chain"},
		"tdx-simulated-refused":     {attest.TDX, "collateral"},
	} {
		t.Run(name, func(t *testing.T) {
			raw, err := os.ReadFile(recordings + name + ".c2s.http")
			if err != nil {
				t.Fatal(err)
			}
			in, found := bufio.NewReader(bytes.NewReader(raw)), false
			for {
				request, err := http.ReadRequest(in)
				if err != nil {
					break
				}
				body, err := io.ReadAll(request.Body)
				if err != nil {
					t.Fatal(err)
				}
				if request.URL.Path != "/kbs/v0/attest" {
					continue
				}
				found = true
				_, a := judged(t, put(t, body), "--at", "2026-11-24T00:00:00Z")
				if a.Genuine || attest.TEE(a.TEE) != row.tee || a.Code != row.code {
					t.Errorf("%s, code %q, want %q, genuine %v", a.TEE, a.Code, row.code, a.Genuine)
				}
			}
			if !found {
				t.Error("no evidence in the recording")
			}
		})
	}
}

// TestNewerReport: a client that knows more fields than this program is told so.
func TestNewerReport(t *testing.T) {
	text := string(load(t, "siena-v3-kbs-evidence.json"))
	newer := strings.Replace(text, `"attestation_report":{`, `"attestation_report":{"launch_page_swap":1,`, 1)
	if newer == text {
		newer = strings.Replace(text, `"attestation_report": {`, `"attestation_report": {"launch_page_swap":1,`, 1)
	}
	if _, a := judged(t, put(t, []byte(newer))); !a.Genuine {
		t.Errorf("a field beside the report made it ungenuine: %s", a.Code)
	}
	broken := strings.Replace(newer, `"guest_svn":0`, `"guest_svn":1`, 1)
	if broken == newer {
		broken = strings.Replace(newer, `"guest_svn": 0`, `"guest_svn": 1`, 1)
	}
	_, a := judged(t, put(t, []byte(broken)))
	i := slices.IndexFunc(a.Checks, func(c attest.Check) bool { return c.Name == checkSignature })
	if a.Code != "signature" || !strings.Contains(a.Checks[i].Advice, "1 fields") {
		t.Errorf("code %q, advice %q", a.Code, a.Checks[i].Advice)
	}
}

// TestNotJudged: status 2, nothing on standard output, and words on what to do.
func TestNotJudged(t *testing.T) {
	const siena = data + "siena-v5-report.bin"
	vcek := load(t, "siena-v5-vcek.der")
	deep := []byte(`{"quote":` + strings.Repeat("[", 1<<19))
	for name, row := range map[string]struct {
		args []string
		says string
	}{
		"no file":               {nil, "accepts 1 arg"},
		"not there":             {[]string{"/nonexistent"}, "no such file"},
		"a directory":           {[]string{t.TempDir()}, "is a directory"},
		"empty":                 {[]string{put(t, nil)}, "is empty"},
		"huge":                  {[]string{put(t, make([]byte, maxEvidence+1))}, "more than"},
		"endless":               {[]string{"/dev/zero"}, "more than"},
		"noise":                 {[]string{put(t, bytes.Repeat([]byte{0xa5}, 3000))}, "neither"},
		"deep JSON":             {[]string{put(t, deep)}, "nested deeper"},
		"a certificate":         {[]string{data + "siena-v5-vcek.der"}, "--cert"},
		"half a client's JSON":  {[]string{put(t, load(t, "siena-v3-kbs-evidence.json")[:4000])}, "ends too early"},
		"a client's wrong JSON": {[]string{put(t, []byte(`{"attestation_report":{"version":"three"}}`))}, "evidence of"},
		"a quote of no base64":  {[]string{put(t, []byte(`{"quote":"!!!"}`))}, "evidence of"},
		"unknown output":        {[]string{siena, "-o", "yaml"}, "table or json"},
		"unknown flag":          {[]string{siena, "--trust-me"}, "unknown flag"},
		"bad time":              {[]string{siena, "--at", "yesterday"}, "--at"},
		"empty time":            {[]string{siena, "--at", ""}, "--at"},
		"odd report data":       {[]string{siena, "--report-data", "abc"}, "--report-data"},
		"long report data":      {[]string{siena, "--report-data", strings.Repeat("00", 65)}, "--report-data"},
		"empty report data":     {[]string{siena, "--report-data", ""}, "--report-data"},
		"no such certificate":   {[]string{siena, "--cert", "/nonexistent"}, "no such file"},
		"certificate cut":       {[]string{siena, "--cert", put(t, vcek[:100])}, "cut off"},
		"bad offsets":           {[]string{siena, "--cert", put(t, flip(table(vcek), 16+3, 0x7f))}, "lies outside"},
		"report as certificate": {[]string{siena, "--cert", siena}, "lies outside"},
		"huge certificate":      {[]string{siena, "--cert", put(t, make([]byte, maxCertFile+1))}, "more than"},
		"policy of nonsense":    {[]string{siena, "--policy", put(t, []byte(`{"version":1}`))}, "--policy"},
		"policy with more":      {[]string{siena, "--policy", put(t, []byte(`{"version":1,"admit":"all"}`))}, "--policy"},
		"policy not there":      {[]string{siena, "--policy", "/nonexistent"}, "no such file"},
		"collateral nonsense":   {[]string{siena, "--collateral", put(t, []byte(`{"a":1}`))}, "member names"},
	} {
		t.Run(name, func(t *testing.T) {
			status, out, errs := sv(nil, append([]string{"evidence"}, row.args...)...)
			if status != 2 || out != "" || !strings.Contains(errs, row.says) {
				t.Errorf("status %d, output %q, %q does not say %q", status, out, errs, row.says)
			}
		})
	}
}
