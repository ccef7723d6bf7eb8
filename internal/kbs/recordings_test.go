package kbs_test

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/eosc-siesta/siestad/internal/kbs"
)

// exchange is one request of a recording with its answer.
type exchange struct {
	method, path string
	request      []byte
	status       int
	answer       []byte
	cookie       string
}

// recording reads both directions of one connection. A request without an answer
// is one on which the client hung up.
func recording(t testing.TB, name string) (out []exchange) {
	t.Helper()
	open := func(direction string) *bufio.Reader {
		data, err := os.ReadFile(filepath.Join("testdata", "recordings", name+direction))
		if err != nil {
			t.Fatal(err)
		}
		return bufio.NewReader(bytes.NewReader(data))
	}
	c2s, s2c := open(".c2s.http"), open(".s2c.http")
	for {
		q, err := http.ReadRequest(c2s)
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatalf("%s: request %d: %v", name, len(out), err)
		}
		x := exchange{method: q.Method, path: q.RequestURI}
		if x.request, err = io.ReadAll(q.Body); err != nil {
			t.Fatal(err)
		}
		if c, err := q.Cookie(kbs.Cookie); err == nil {
			x.cookie = c.Value
		}
		a, err := http.ReadResponse(s2c, q)
		if err == nil {
			x.status = a.StatusCode
			if x.answer, err = io.ReadAll(a.Body); err != nil {
				t.Fatal(err)
			}
		}
		out = append(out, x)
	}
}

// recordings lists them all, so that a file nobody reads fails a test.
func recordings(t testing.TB) (names []string) {
	t.Helper()
	files, err := filepath.Glob("testdata/recordings/*.c2s.http")
	if err != nil || len(files) == 0 {
		t.Fatal("no recordings", err)
	}
	for _, f := range files {
		names = append(names, strings.TrimSuffix(filepath.Base(f), ".c2s.http"))
	}
	return names
}

// attempt is one handshake of a recording.
type attempt struct {
	tee, nonce string
	body       []byte
	status     int
}

func attempts(t testing.TB, name string) (out []attempt) {
	t.Helper()
	var a attempt
	for _, x := range recording(t, name) {
		switch x.path {
		case "/kbs/v0/auth":
			var q struct{ TEE string }
			var c struct{ Nonce string }
			if json.Unmarshal(x.request, &q) != nil || json.Unmarshal(x.answer, &c) != nil {
				t.Fatalf("%s: recorded /auth is not JSON", name)
			}
			a = attempt{tee: q.TEE, nonce: c.Nonce}
		case "/kbs/v0/attest":
			a.body, a.status = x.request, x.status
			out = append(out, a)
		}
	}
	return out
}

// TestRecordedRequests answers every request that was recorded as this side does,
// and compares the answer byte for byte where both servers mean the same.
func TestRecordedRequests(t *testing.T) {
	for _, name := range recordings(t) {
		t.Run(name, func(t *testing.T) {
			for i, x := range recording(t, name) {
				p, err := kbs.ParsePath(x.path)
				if err != nil || p.Collapsed {
					t.Fatalf("path %s: %v, collapsed %v", x.path, err, p.Collapsed)
				}
				switch p.Plugin {
				case "auth":
					recordedAuth(t, name, x)
				case "attest":
					recordedAttest(t, x)
				case "resource":
					recordedResource(t, name, i, p, x)
				case "nosuch":
					same(t, x, kbs.PluginNotFound(p.Plugin))
				default:
					t.Errorf("nobody answers %s", x.path)
				}
			}
		})
	}
}

func recordedAuth(t *testing.T, name string, x exchange) {
	t.Helper()
	q, err := kbs.ParseRequest(x.request)
	if strings.Contains(string(x.request), `"sample"`) {
		var e *kbs.Error
		if !errors.As(err, &e) || e.Status != http.StatusForbidden || !strings.Contains(e.Detail, "tee sample") {
			t.Errorf("sample evidence is not refused by its name: %v", err)
		}
	} else if err != nil {
		t.Fatalf("%s: %v", name, err)
	} else if want := map[bool]int{true: 0, false: 3}[strings.HasPrefix(name, "aproxy")]; len(q.Hashes) != want {
		t.Errorf("hashes %v, want %d", q.Hashes, want)
	}
	var c struct{ Nonce string }
	if err := json.Unmarshal(x.answer, &c); err != nil {
		t.Fatal(err)
	}
	if got := (kbs.Challenge{Nonce: c.Nonce}).JSON(); !bytes.Equal(got, x.answer) {
		t.Errorf("challenge\n%s\nrecorded\n%s", got, x.answer)
	}
	raw, err := base64.StdEncoding.DecodeString(c.Nonce)
	if err != nil || len(raw) != 32 || kbs.NonceText([32]byte(raw)) != c.Nonce {
		t.Errorf("nonce %q is not written as this side does: %v", c.Nonce, err)
	}
}

func recordedAttest(t *testing.T, x exchange) {
	t.Helper()
	if !kbs.ValidSession(x.cookie) {
		t.Errorf("session %q", x.cookie)
	}
	if _, err := kbs.ParseAttest(x.request); err != nil {
		t.Fatal(err)
	}
	switch x.status {
	case http.StatusUnauthorized:
		same(t, x, kbs.AttestFailed(errors.New("a cause")))
	case http.StatusOK:
		var token struct{ Token string }
		if err := json.Unmarshal(x.answer, &token); err != nil {
			t.Fatal(err)
		}
		if got := kbs.TokenJSON(token.Token); !bytes.Equal(got, x.answer) {
			t.Errorf("token answer differs: %s", got)
		}
	}
}

func recordedResource(t *testing.T, name string, i int, p kbs.Path, x exchange) {
	t.Helper()
	r, err := p.Resource()
	if err != nil || r.Repository != "default" || r.Type != "sample" {
		t.Errorf("%s: %v, %v", x.path, r, err)
	}
	switch {
	case i == 0 && x.status == http.StatusUnauthorized:
		same(t, x, kbs.TokenNotFound())
	case x.status == http.StatusOK:
		recordedJWE(t, x.answer)
	case name == "missing-resource":
		// The stock server says 401 here and is asked three times; 404 ends it.
		var e struct{ Type string }
		if err := json.Unmarshal(kbs.ResourceAbsent().JSON(), &e); err != nil || !strings.Contains(string(x.answer), e.Type) {
			t.Errorf("recorded %s, ours has type %s", x.answer, e.Type)
		}
	case x.status != 0:
		t.Errorf("status %d of %s is not accounted for", x.status, x.path)
	}
}

// same compares an error with the recorded answer: body always, status too.
func same(t *testing.T, x exchange, e *kbs.Error) {
	t.Helper()
	if !bytes.Equal(e.JSON(), x.answer) || e.Status != x.status {
		t.Errorf("%s %s: answered %d %s, recorded %d %s", x.method, x.path, e.Status, e.JSON(), x.status, x.answer)
	}
}

// recordedJWE seals a secret of the same length to a key of the same kind: what
// then differs from the recording are random bytes only.
func recordedJWE(t *testing.T, recorded []byte) {
	t.Helper()
	var w struct{ Protected, Ciphertext string }
	if err := json.Unmarshal(recorded, &w); err != nil {
		t.Fatal(err)
	}
	header, err := base64.RawURLEncoding.DecodeString(w.Protected)
	if err != nil {
		t.Fatal(err)
	}
	kind := "RSA-3072"
	for _, crv := range []string{"P-256", "P-521"} {
		if strings.Contains(string(header), `"crv":"`+crv+`"`) {
			kind = crv
		}
	}
	secret := make([]byte, base64.RawURLEncoding.DecodedLen(len(w.Ciphertext)))
	ours, err := kbs.Seal(guestKey(t, kind).public, secret)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := shape(t, ours), shape(t, recorded); got != want {
		t.Errorf("answer is shaped\n%s\nrecorded\n%s", got, want)
	}
}

// shape writes a JWE with the random parts replaced by their lengths.
func shape(t *testing.T, jwe []byte) string {
	t.Helper()
	var w struct {
		Protected    string
		EncryptedKey string `json:"encrypted_key"`
		IV           string
		Ciphertext   string
		Tag          string
	}
	if err := json.Unmarshal(jwe, &w); err != nil {
		t.Fatal(err)
	}
	header, err := base64.RawURLEncoding.DecodeString(w.Protected)
	if err != nil {
		t.Fatal(err)
	}
	var h struct{ EPK struct{ X, Y string } }
	if err := json.Unmarshal(header, &h); err != nil {
		t.Fatal(err)
	}
	out, head := string(jwe), string(header)
	for _, s := range []string{h.EPK.X, h.EPK.Y} {
		if s != "" {
			head = strings.Replace(head, s, strings.Repeat("#", len(s)), 1)
		}
	}
	out = strings.Replace(out, w.Protected, head, 1)
	for _, s := range []string{w.EncryptedKey, w.IV, w.Ciphertext, w.Tag} {
		out = strings.Replace(out, s, strings.Repeat("#", len(s)), 1)
	}
	return out
}

// TestRecordedBindings recomputes what each recorded report had to carry.
func TestRecordedBindings(t *testing.T) {
	seen := map[string]int{}
	for _, name := range recordings(t) {
		for i, a := range attempts(t, name) {
			body, err := kbs.ParseAttest(a.body)
			if err != nil {
				t.Fatalf("%s %d: %v", name, i, err)
			}
			seen[a.tee]++
			if a.tee == "sample" {
				if _, err := body.Evidence("sample"); err == nil {
					t.Errorf("%s: sample evidence has a form", name)
				}
				want, err := kbs.Binding(a.nonce, body.Key, body.Additional, kbs.SHA384)
				if err != nil || !bytes.Equal(want[:48], sampleReportData(t, a.body)) {
					t.Errorf("%s %d: binding differs (%v)", name, i, err)
				}
				continue
			}
			e, err := body.Evidence(a.tee)
			if err != nil {
				t.Fatalf("%s %d: %v", name, i, err)
			}
			want, err := body.ReportData(a.nonce, e, "")
			if err != nil {
				t.Fatalf("%s %d: %v", name, i, err)
			}
			at := 0x50 // SNP; for TDX the header of the quote and the fields before REPORTDATA
			if a.tee == "tdx" {
				at = 48 + 520
			}
			if got := e.Report[at : at+64]; !bytes.Equal(got, want[:]) {
				t.Errorf("%s %d: report carries %x, binding is %x", name, i, got, want)
			}
			if e.SVSM != (name == "aproxy-simroots") || e.Unknown != 0 {
				t.Errorf("%s %d: SVSM %v, unknown %d", name, i, e.SVSM, e.Unknown)
			}
			if _, err := body.ReportData("another", e, ""); err == nil {
				t.Errorf("%s %d: a foreign nonce is taken", name, i)
			}
		}
	}
	if seen["sample"] < 8 || seen["snp"] != 8 || seen["tdx"] != 5 {
		t.Errorf("attempts seen: %v", seen)
	}
}

func sampleReportData(t *testing.T, body []byte) []byte {
	t.Helper()
	var v struct {
		E struct {
			P struct {
				D string `json:"report_data"`
			} `json:"primary_evidence"`
		} `json:"tee-evidence"`
	}
	if err := json.Unmarshal(body, &v); err != nil {
		t.Fatal(err)
	}
	d, err := base64.StdEncoding.DecodeString(v.E.P.D)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestRecordedInitData compares with the digest in the stock server's token.
func TestRecordedInitData(t *testing.T) {
	const name = "sample-initdata"
	body, err := kbs.ParseAttest(attempts(t, name)[0].body)
	if err != nil || body.InitData == nil {
		t.Fatal("no init-data", err)
	}
	var want struct {
		Submods struct {
			CPU struct {
				E struct {
					InitData string `json:"init_data"`
				} `json:"ear.veraison.annotated-evidence"`
			} `json:"cpu0"`
		}
	}
	for _, x := range recording(t, name) {
		if x.path != "/kbs/v0/attest" {
			continue
		}
		payload, err := base64.RawURLEncoding.DecodeString(strings.Split(string(x.answer), ".")[1])
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(payload, &want); err != nil {
			t.Fatal(err)
		}
	}
	digest := body.InitData.MRConfigID()
	if got := base64.StdEncoding.EncodeToString(digest[:]); got != want.Submods.CPU.E.InitData {
		t.Errorf("digest %s, the stock server's %s", got, want.Submods.CPU.E.InitData)
	}
}
