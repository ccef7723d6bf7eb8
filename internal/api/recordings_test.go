package api

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/audit"
)

// The recordings of stock clients (internal/kbs/testdata/ORIGIN), played to the real door. What the stock server chose
// then and this one cannot, the nonce and the cookie, is put in: the nonce into the row of the session that the recorded
// /auth opened, the cookie into the recorded requests.

const recordings = "../kbs/testdata/recordings/"

// recordedAt is within the validity of the recorded certificates.
var recordedAt = time.Date(2026, 11, 23, 20, 30, 0, 0, time.UTC)

// recorded gives the requests of one client, in order.
func recorded(t testing.TB, name string) (list []*http.Request, bodies [][]byte) {
	t.Helper()
	data, err := os.ReadFile(recordings + name + ".c2s.http")
	must(t, err)
	in := bufio.NewReader(bytes.NewReader(data))
	for {
		req, err := http.ReadRequest(in)
		if errors.Is(err, io.EOF) {
			return list, bodies
		}
		must(t, err)
		body, err := io.ReadAll(req.Body)
		must(t, err)
		list, bodies = append(list, req), append(bodies, body)
	}
}

// played is an answer of this server to one recorded request.
type played struct {
	request string
	status  int
	body    map[string]any
}

// play sends a recording, to its end: also what the client sent after an answer that would have stopped it here.
func (w *world) play(name string) (out []played) {
	w.t.Helper()
	requests, bodies := recorded(w.t, name)
	w.cookie = ""
	for i, old := range requests {
		cookie := ""
		if old.Header.Get("Cookie") != "" {
			cookie = w.cookie
		}
		if strings.HasSuffix(old.URL.Path, "/attest") {
			w.inject(cookie, bodies[i])
		}
		out = append(out, w.sendAs(old, bodies[i], cookie))
	}
	return out
}

// send is one request that no client was recorded with.
func (w *world) send(cookie, method, path string) played {
	w.t.Helper()
	return w.sendAs(httptest.NewRequestWithContext(context.Background(), method, path, nil), nil, cookie)
}

func (w *world) sendAs(old *http.Request, body []byte, cookie string) played {
	w.t.Helper()
	req := httptest.NewRequestWithContext(context.Background(), old.Method, old.RequestURI, bytes.NewReader(body))
	req.Header = old.Header.Clone()
	req.Header.Del("Cookie")
	if cookie != "" {
		req.AddCookie(&http.Cookie{Name: "kbs-session-id", Value: cookie})
	}
	rec := httptest.NewRecorder()
	w.door.ServeHTTP(rec, req)
	p := played{request: old.Method + " " + req.URL.Path, status: rec.Code}
	if err := json.Unmarshal(rec.Body.Bytes(), &p.body); err != nil || rec.Header().Get("Content-Type") != "application/json" {
		w.t.Errorf("%s: %d is not JSON: %q", p.request, rec.Code, rec.Body)
	}
	for _, c := range rec.Result().Cookies() {
		w.cookie = c.Value
	}
	return p
}

// inject makes the recorded nonce that of the session.
func (w *world) inject(cookie string, body []byte) {
	w.t.Helper()
	var sent struct {
		Runtime struct{ Nonce string } `json:"runtime-data"`
	}
	must(w.t, json.Unmarshal(body, &sent))
	nonce, err := base64.StdEncoding.DecodeString(sent.Runtime.Nonce)
	must(w.t, err)
	hash := sha256.Sum256([]byte(cookie))
	w.exec(`UPDATE broker_kbs_session SET nonce = $2 WHERE cookie = $1`, hash[:], nonce)
}

// recordedSNP is the evidence of a recording: enough to say who the guest was.
type recordedSNP struct {
	ReportID    []byte
	Measurement []byte
	ChipID      []byte
	ARK, ASK    []byte
}

func recordedEvidence(t testing.TB, name string) recordedSNP {
	t.Helper()
	_, bodies := recorded(t, name)
	for _, body := range bodies {
		var sent struct {
			Evidence struct {
				Primary struct {
					Report map[string]json.RawMessage `json:"attestation_report"`
					Chain  []struct {
						Kind string `json:"cert_type"`
						Data []int
					} `json:"cert_chain"`
				} `json:"primary_evidence"`
			} `json:"tee-evidence"`
		}
		if json.Unmarshal(body, &sent) != nil || sent.Evidence.Primary.Report == nil {
			continue
		}
		list := func(raw json.RawMessage) []byte {
			var numbers []int
			must(t, json.Unmarshal(raw, &numbers))
			return bytesOf(numbers)
		}
		r := sent.Evidence.Primary.Report
		out := recordedSNP{ReportID: list(r["report_id"]), Measurement: list(r["measurement"]), ChipID: list(r["chip_id"])}
		for _, c := range sent.Evidence.Primary.Chain {
			switch c.Kind {
			case "ARK":
				out.ARK = bytesOf(c.Data)
			case "ASK":
				out.ASK = bytesOf(c.Data)
			}
		}
		return out
	}
	t.Fatalf("%s has no SNP evidence", name)
	return recordedSNP{}
}

func bytesOf(numbers []int) []byte {
	out := make([]byte, len(numbers))
	for i, n := range numbers {
		out[i] = byte(n)
	}
	return out
}

func (r recordedSNP) chain() []byte {
	var out []byte
	for _, der := range [][]byte{r.ASK, r.ARK} {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return out
}

// recordedHardware is the machine of the recordings, as a site would register it.
type recordedHardware struct {
	plainHardware
	recordedSNP
	simulated bool
}

func (h recordedHardware) policy() attest.Policy {
	p := attest.NovaPolicy(map[string]attest.TCB{attest.Milan: {Bootloader: 4, SNP: 24, Microcode: 219}})
	p.Chips, p.Measurements, p.Simulated = [][]byte{h.ChipID}, [][]byte{h.Measurement}, h.simulated
	return p
}

// newRecordedWorld has a workspace whose armed generation is the recorded guest; it holds its lease, as that guest would.
func newRecordedWorld(t testing.TB, name string, roots *attest.Roots, simulated bool) *world {
	t.Helper()
	ev := recordedEvidence(t, name)
	w := &world{
		rig: newRigWith(t, setup{
			collateral: attest.Collateral{Roots: roots}, now: func() time.Time { return recordedAt },
		}),
		hw: recordedHardware{recordedSNP: ev, simulated: simulated},
	}
	w.seed()
	w.put("", "default/sample/test")
	w.exec(`UPDATE broker_arm SET state = 'released', report_id = $1`, ev.ReportID)
	w.exec(`INSERT INTO broker_lease (id, workspace, generation, epoch, volume_id, report_id, signing_key, chip, state, mode, until, renew_after, stage, challenge, request, entry)
		VALUES ('lease', $1, 1, 1, 'vol-1', $2, $3, '', 'live', 'open', now() + interval '5 minutes', now() + interval '2 minutes', 'ready', 'c', $3, 1)`,
		kbsWorkspace, ev.ReportID, make([]byte, 32))
	return w
}

// Sample evidence is refused by its name, at the first word of it.
func TestRecordedSampleClients(t *testing.T) {
	w := newPlainWorld(t)
	for _, name := range []string{
		"sample-get-resource-ec", "sample-get-resource-rsa", "sample-get-resource-p521", "sample-attest", "sample-initdata", "missing-resource",
	} {
		for _, p := range w.play(name) {
			detail, _ := p.body["detail"].(string)
			want := map[string]int{"GET": 401, "POST /kbs/v0/auth": 403, "POST /kbs/v0/attest": 401}
			status, ok := want[p.request]
			if !ok {
				status = want["GET"]
			}
			if p.status != status || p.status == 403 && !strings.Contains(detail, "tee sample") {
				t.Errorf("%s: %s: %d %v", name, p.request, p.status, p.body)
			}
		}
	}
	if n := w.count(`SELECT count(*) FROM broker_kbs_session`); n != 0 {
		t.Errorf("sample evidence opened %d sessions", n)
	}
}

func TestRecordedPassportAndPlugin(t *testing.T) {
	w := newPlainWorld(t)
	for name, want := range map[string]struct {
		status int
		kind   string
	}{"passport-bearer": {401, "TokenVerifierError"}, "unknown-plugin-404": {404, "PluginNotFound"}} {
		for _, p := range w.play(name) {
			if kind, _ := p.body["type"].(string); p.status != want.status || !strings.HasSuffix(kind, want.kind) {
				t.Errorf("%s: %s: %d %v", name, p.request, p.status, p.body)
			}
		}
	}
}

// Evidence of the simulated hardware is parsed, and judged under the vendors' roots: refused, in every build.
func TestRecordedSimulatedHardwareIsRefused(t *testing.T) {
	for name, code := range map[string]string{
		"snp-simulated-refused": attest.CodeChain, "snp-simroots-get-resource": attest.CodeChain, "snp-simroots-trustee-attester-uri": attest.CodeChain,
	} {
		t.Run(name, func(t *testing.T) {
			w := newRecordedWorld(t, name, attest.AMDRoots(), false)
			tried := 0
			for _, p := range w.play(name) {
				switch p.request {
				case "POST /kbs/v0/auth":
					if p.status != 200 {
						t.Errorf("%s: %d %v", p.request, p.status, p.body)
					}
				case "POST /kbs/v0/attest":
					if tried++; p.status != 403 {
						t.Errorf("%s: %d %v", p.request, p.status, p.body)
					}
				default:
					if p.status != 401 {
						t.Errorf("%s: %d %v", p.request, p.status, p.body)
					}
				}
			}
			if n := w.audited("guest.attest", audit.Refused, code); n != tried || tried == 0 {
				t.Errorf("%d of %d refusals have code %s", n, tried, code)
			}
		})
	}
}

// A quote of TDX is of no generation that could be armed: refused before anybody asks whether it is signed.
func TestRecordedTDX(t *testing.T) {
	w := newPlainWorld(t)
	for _, p := range w.play("tdx-simulated-refused") {
		want := map[string]int{"POST /kbs/v0/auth": 200, "POST /kbs/v0/attest": 403}[p.request]
		if p.status != want {
			t.Errorf("%s: %d %v", p.request, p.status, p.body)
		}
	}
}
