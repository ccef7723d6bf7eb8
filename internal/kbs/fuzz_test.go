package kbs_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/eosc-siesta/siestad/internal/kbs"
)

func FuzzParseRequest(f *testing.F) {
	for _, name := range recordings(f) {
		for _, x := range recording(f, name) {
			if x.path == "/kbs/v0/auth" {
				f.Add(x.request)
			}
		}
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		q, err := kbs.ParseRequest(body)
		if err == nil && (q.TEE != kbs.TEESNP && q.TEE != kbs.TEETDX || !json.Valid(body)) {
			t.Errorf("took %q as %q", body, q.TEE)
		}
		answered(t, err)
	})
}

func FuzzParseAttest(f *testing.F) {
	for _, name := range recordings(f) {
		for _, a := range attempts(f, name) {
			f.Add(a.body)
		}
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		a, err := kbs.ParseAttest(body)
		answered(t, err)
		if err != nil {
			return
		}
		if again, err := kbs.ParseTEEKey(a.Key.JSON()); err != nil || !again.Equal(a.Key) {
			t.Errorf("key %s: %v", a.Key.JSON(), err)
		}
		for _, tee := range []string{kbs.TEESNP, kbs.TEETDX} {
			e, err := a.Evidence(tee)
			answered(t, err)
			if err == nil {
				_, err = a.ReportData(a.Nonce, e, "")
				answered(t, err)
				if err != nil && !e.SVSM && a.Nonce != "" {
					t.Error(err)
				}
			}
		}
	})
}

func FuzzParseEvidence(f *testing.F) {
	f.Add("snp", []byte(file(f, "siena-v3-kbs-evidence.json")))
	f.Add("snp", snpEvidence(f, clientJSON(file(f, "siena-v5-report.bin"))))
	f.Add("snp", snpEvidence(f, clientJSON(file(f, "milan-v2-report.bin"))))
	f.Add("snp", snpEvidence(f, clientJSON(turin(f))))
	for _, name := range recordings(f) {
		for _, a := range attempts(f, name) {
			var v struct {
				E struct {
					P json.RawMessage `json:"primary_evidence"`
				} `json:"tee-evidence"`
			}
			if err := json.Unmarshal(a.body, &v); err != nil {
				f.Fatal(err)
			}
			f.Add(a.tee, []byte(v.E.P))
		}
	}
	f.Fuzz(func(t *testing.T, tee string, evidence []byte) {
		e, err := kbs.ParseEvidence(tee, evidence)
		answered(t, err)
		switch {
		case err != nil:
			if e.TEE != "" || e.Report != nil {
				t.Error("refused and returned")
			}
		case e.TEE == "sev-snp" && len(e.Report) != 1184:
			t.Errorf("a report of %d bytes", len(e.Report))
		case e.TEE == "sev-snp" && !e.SVSM:
			// What was rebuilt is written and rebuilt the same.
			again, err := kbs.ParseEvidence(tee, snpEvidence(t, clientJSON(e.Report)))
			if err != nil || !bytes.Equal(again.Report, e.Report) {
				t.Errorf("rebuilt differently: %v", err)
			}
		case strings.HasPrefix(tee, "sample"):
			t.Error("sample evidence is taken")
		}
	})
}

func FuzzParseTEEKey(f *testing.F) {
	f.Add([]byte(vectorKey))
	for _, kind := range kinds {
		f.Add(guestKey(f, kind).public.JSON())
	}
	f.Fuzz(func(t *testing.T, jwk []byte) {
		k, err := kbs.ParseTEEKey(jwk)
		if err != nil {
			return
		}
		if again, err := kbs.ParseTEEKey(k.JSON()); err != nil || !again.Equal(k) {
			t.Errorf("%s: %v", k.JSON(), err)
		}
		if _, err := kbs.Seal(k, []byte("secret")); err != nil {
			t.Errorf("does not seal to %s: %v", k.JSON(), err)
		}
	})
}

func FuzzParseInitData(f *testing.F) {
	f.Add("version = \"0.1.0\"\nalgorithm = \"sha384\"\n[data]\n\"a.toml\" = \"x\"")
	f.Add("# c\r\nversion='0.1.0' # c\r\nalgorithm\t=\t'sha512'")
	f.Fuzz(func(t *testing.T, toml string) {
		d, err := kbs.ParseInitData(toml)
		if err == nil && (d.Text != toml || d.MRConfigID() == [48]byte{}) {
			t.Errorf("%q has no digest", toml)
		}
	})
}

func FuzzParsePath(f *testing.F) {
	for _, s := range []string{"/kbs/v0/resource//a/b/c", "/kbs/v0/auth", "/kbs/v0/", "/kbs/v0/resource/../../x", "/kbs/v0/resource/%2e/b/c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		p, err := kbs.ParsePath(path)
		if err != nil {
			answered(t, err)
			return
		}
		plain := strings.Join(append([]string{kbs.Prefix, p.Plugin}, p.Segments...), "/")
		if again, err := kbs.ParsePath(plain); err != nil || again.Collapsed || p.Collapsed == (plain == path) {
			t.Errorf("%q names %q, collapsed %v: %v", path, plain, p.Collapsed, err)
		}
		if strings.Contains(plain, "/.") || strings.ContainsAny(plain, "%\\ ") {
			t.Errorf("%q names %q", path, plain)
		}
	})
}

// answered: every refusal is an answer whose body a client can read.
func answered(t *testing.T, err error) {
	t.Helper()
	var e *kbs.Error
	if err != nil && (!errors.As(err, &e) || e.Status < 400 || stockError(e.JSON()) != nil) {
		t.Errorf("not an answer: %v", err)
	}
}
