package kbs_test

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/eosc-siesta/siestad/internal/kbs"
)

// vectorKey is the public P-256 key of RFC 7515, A.3.
const vectorKey = `{"kty":"EC","crv":"P-256","alg":"ECDH-ES+A256KW","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}`

func parsedKey(t testing.TB, jwk string) kbs.TEEKey {
	t.Helper()
	k, err := kbs.ParseTEEKey(json.RawMessage(jwk))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestBindingVector was computed outside of this project.
func TestBindingVector(t *testing.T) {
	const want = "dfa65d498315212bdaf8857231cf0482172933db271f15856bf30db447227eb5b1dd9e29fcc1fb9076fb00792c3bb7e7" +
		"00000000000000000000000000000000"
	var nonce [32]byte
	for i := range nonce {
		nonce[i] = byte(i)
	}
	key := parsedKey(t, vectorKey)
	got, err := kbs.Binding(kbs.NonceText(nonce), key, "", kbs.SHA384)
	if err != nil || hex.EncodeToString(got[:]) != want {
		t.Errorf("binding %x: %v", got, err)
	}
	for _, h := range []kbs.Hash{kbs.SHA256, kbs.SHA512} {
		other, err := kbs.Binding(kbs.NonceText(nonce), key, "", h)
		if err != nil || other == got {
			t.Errorf("%s: %x, %v", h, other, err)
		}
	}
}

// TestBindingBindsEverything: another nonce, key or additional evidence is
// another digest, and nothing else is taken.
func TestBindingBindsEverything(t *testing.T) {
	key, other := guestKey(t, "P-256").public, guestKey(t, "P-521").public
	seen := map[[64]byte]string{}
	for _, c := range []struct {
		name, nonce, additional string
		key                     kbs.TEEKey
	}{
		{"plain", "n", "", key},
		{"nonce", "m", "", key},
		{"key", "n", "", other},
		{"additional", "n", `{"nvidia":"<&>"}`, key},
		{"additional that tries to be a nonce", `n","x":"`, "", key},
		{"rsa", "n", "", guestKey(t, "RSA-2048").public},
	} {
		d, err := kbs.Binding(c.nonce, c.key, c.additional, kbs.SHA384)
		if err != nil {
			t.Fatal(err)
		}
		if was, twice := seen[d]; twice {
			t.Errorf("%s binds as %s", c.name, was)
		}
		seen[d] = c.name
	}
	if _, err := kbs.Binding("n", kbs.TEEKey{}, "", kbs.SHA384); err == nil {
		t.Error("bound no key")
	}
	for _, h := range []kbs.Hash{"", "sm3", "SHA384"} {
		if _, err := kbs.Binding("n", key, "", h); err == nil {
			t.Errorf("bound with %q", h)
		}
	}
}

func TestSVSMBindingRefuses(t *testing.T) {
	nonce := kbs.NonceText([32]byte{1})
	for name, f := range map[string]func() error{
		"RSA":         func() error { _, err := kbs.SVSMBinding(nonce, guestKey(t, "RSA-2048").public); return err },
		"no key":      func() error { _, err := kbs.SVSMBinding(nonce, kbs.TEEKey{}); return err },
		"short nonce": func() error { _, err := kbs.SVSMBinding("AAAA", guestKey(t, "P-521").public); return err },
		"not base64": func() error {
			_, err := kbs.SVSMBinding(strings.Repeat("!", 44), guestKey(t, "P-521").public)
			return err
		},
	} {
		if f() == nil {
			t.Errorf("bound: %s", name)
		}
	}
	// The dialect's digest leaves additional evidence out, so none may come.
	a := attempts(t, "aproxy-simroots")[0]
	body, err := kbs.ParseAttest([]byte(strings.Replace(string(a.body), `"additional_evidence":""`, `"additional_evidence":"x"`, 1)))
	if err != nil {
		t.Fatal(err)
	}
	e, err := body.Evidence(a.tee)
	if err != nil || !e.SVSM {
		t.Fatal(err)
	}
	if _, err := body.ReportData(a.nonce, e, ""); err == nil {
		t.Error("unbound additional evidence is taken")
	}
}

func TestParseRequest(t *testing.T) {
	const extra = `,"extra-params":{"supported-hash-algorithms":["sha256","sha384","sha512","sm3"]}}`
	q, err := kbs.ParseRequest([]byte(`{"version":"0.4.0","tee":"snp"` + extra))
	if err != nil || q.TEE != kbs.TEESNP || !slices.Equal(q.Hashes, []kbs.Hash{kbs.SHA256, kbs.SHA384, kbs.SHA512}) {
		t.Errorf("%+v: %v", q, err)
	}
	for _, c := range []struct {
		name, body string
		status     int // 0: accepted
	}{
		{"tdx", `{"version":"0.4.0","tee":"tdx","extra-params":""}`, 0},
		{"extra-params null", `{"version":"0.4.0","tee":"snp","extra-params":null}`, 0},
		{"extra-params of anything", `{"version":"0.4.0","tee":"snp","extra-params":[1,{"a":-2.5e-3},true,false,"\u00e9"]}`, 0},
		{"unknown member", `{"version":"0.4.0","tee":"snp","extra-params":"","x":{"y":[]}}`, 0},
		{"blanks", " {\n\t\"version\" : \"0.4.0\" , \"tee\":\"snp\",\r\n\"extra-params\" : \"\" } ", 0},
		{"older version", `{"version":"0.1.1","tee":"snp"` + extra, 401},
		{"newer version", `{"version":"0.4.1","tee":"snp"` + extra, 401},
		{"no version", `{"tee":"snp"` + extra, 401},
		{"version a number", `{"version":0.4,"tee":"snp"` + extra, 401},
		{"unknown tee", `{"version":"0.4.0","tee":"x"` + extra, 401},
		{"tee in capitals", `{"version":"0.4.0","tee":"SNP"` + extra, 401},
		{"known tee, not judged", `{"version":"0.4.0","tee":"se"` + extra, 403},
		{"sample", `{"version":"0.4.0","tee":"sample"` + extra, 403},
		{"sampledevice", `{"version":"0.4.0","tee":"sampledevice"` + extra, 403},
		{"no extra-params", `{"version":"0.4.0","tee":"snp"}`, 401},
		{"not JSON", `{"version"`, 401},
		{"empty", ``, 401},
		{"null", `null`, 401},
		{"list", `[]`, 401},
		{"trailing", `{"version":"0.4.0","tee":"snp"` + extra + `x`, 401},
		{"twice", `{"version":"0.4.0","tee":"sample","tee":"snp"` + extra, 401},
		{"twice by an escape", `{"version":"0.4.0","tee":"sample","\u0074ee":"snp"` + extra, 401},
		{"another case", `{"Version":"0.4.0","tee":"snp"` + extra, 401},
		{"a comma at the end", `{"version":"0.4.0","tee":"snp","extra-params":"",}`, 401},
		{"17 hashes", `{"version":"0.4.0","tee":"snp","extra-params":{"supported-hash-algorithms":[` + strings.Repeat(`"a",`, 16) + `"a"]}}`, 401},
		{"deep", `{"version":"0.4.0","tee":"snp","extra-params":` + strings.Repeat("[", 1000) + strings.Repeat("]", 1000) + "}", 401},
		{"long", `{"version":"0.4.0","tee":"snp","extra-params":"` + strings.Repeat("x", 16<<10) + `"}`, 413},
	} {
		_, err := kbs.ParseRequest([]byte(c.body))
		var e *kbs.Error
		switch {
		case c.status == 0 && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.status != 0 && (!errors.As(err, &e) || e.Status != c.status):
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestNegativeCases compares with what the stock server answered to requests that
// are malformed or out of order: equal words where the meaning is equal.
func TestNegativeCases(t *testing.T) {
	recorded := map[string]string{}
	for _, block := range strings.Split(string(file(t, "recordings/negative-cases.txt")), "### ")[1:] {
		name, rest, _ := strings.Cut(block, "\n")
		i := strings.LastIndex(strings.TrimRight(rest, "\r\n"), "\n")
		recorded[name] = strings.TrimSpace(rest[i+1:])
		if status := regexp.MustCompile(`^HTTP/1\.1 (\d+)`).FindStringSubmatch(rest); status != nil {
			recorded[name+" status"] = status[1]
		}
	}
	const extra = `,"extra-params":{}}`
	request := func(body string) func() error {
		return func() error { _, err := kbs.ParseRequest([]byte(body)); return err }
	}
	path := func(p string) func() error {
		return func() error {
			parsed, err := kbs.ParsePath(p)
			if err != nil {
				return err
			}
			if parsed.Plugin == "resource" {
				_, err = parsed.Resource()
				return err
			}
			return kbs.PluginNotFound(parsed.Plugin)
		}
	}
	for name, answer := range map[string]func() error{
		"auth wrong version":               request(`{"version":"0.1.1","tee":"snp"` + extra),
		"auth unknown tee":                 request(`{"version":"0.4.0","tee":"nosuch"` + extra),
		"auth no extra-params":             request(`{"version":"0.4.0","tee":"snp"}`),
		"auth bad json":                    request(`{`),
		"auth GET":                         path("/kbs/v0/auth"),
		"root":                             path("/kbs/v0/"),
		"attest no cookie":                 func() error { return kbs.AttestFailed(errors.New("no session")) },
		"attest unknown cookie":            func() error { return kbs.AttestFailed(errors.New("no session")) },
		"attest wrong nonce":               func() error { return kbs.AttestFailed(errors.New("nonce")) },
		"resource with authed-only cookie": func() error { return kbs.TokenNotFound() },
		"resource bad bearer":              func() error { return kbs.TokenRefused(errors.New("why")) },
	} {
		var e *kbs.Error
		if err := answer(); !errors.As(err, &e) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if string(e.JSON()) != recorded[name] || fmt.Sprint(e.Status) != recorded[name+" status"] {
			t.Errorf("%s: answered %d %s, recorded %s %s", name, e.Status, e.JSON(), recorded[name+" status"], recorded[name])
		}
	}
	// Where this side differs on purpose: a double slash names what one slash does,
	// two segments are a path that cannot exist, and hardware that is known and not
	// judged is refused for good.
	if p, err := kbs.ParsePath("/kbs/v0/resource//default/sample/test"); err != nil || !p.Collapsed || len(p.Segments) != 3 {
		t.Errorf("double slash: %+v, %v", p, err)
	}
	var e *kbs.Error
	if err := path("/kbs/v0/resource/default/sample")(); !errors.As(err, &e) || e.Status != http.StatusNotFound {
		t.Errorf("two segments: %v", err)
	}
	if err := request(`{"version":"0.4.0","tee":"se"` + extra)(); !errors.As(err, &e) || e.Status != http.StatusForbidden {
		t.Errorf("se: %v", err)
	}
	if len(recorded) != 2*20 {
		t.Errorf("%d recorded cases", len(recorded)/2)
	}
}

func TestParseAttest(t *testing.T) {
	good := string(attempts(t, "snp-simroots-get-resource")[0].body)
	a, err := kbs.ParseAttest([]byte(good))
	if err != nil || a.InitData != nil || a.Additional != "" || a.Key.Alg() != kbs.AlgECDH {
		t.Fatalf("%v", err)
	}
	swap := func(old, replacement string) string {
		out := strings.Replace(good, old, replacement, 1)
		if out == good {
			t.Fatalf("%q is not in the body", old)
		}
		return out
	}
	for _, c := range []struct {
		name, body string
		ok         bool
	}{
		{"as recorded", good, true},
		{"without init-data", swap(`"init-data":null,`, ``), true},
		{"another member outside", swap(`"init-data":null,`, `"x":[{}],`), true},
		{"another member of the evidence", swap(`"tee-evidence":{`, `"tee-evidence":{"x":1,`), true},
		{"another member of the report", swap(`"attestation_report":{`, `"attestation_report":{"x":1,`), true},
		{"another member of the runtime data", swap(`"runtime-data":{`, `"runtime-data":{"x":1,`), false},
		{"another member of the key", swap(`"tee-pubkey":{`, `"tee-pubkey":{"kid":"1",`), false},
		{"another member of init-data", swap(`"init-data":null`, `"init-data":{"format":"toml","body":"version=\"0.1.0\"\nalgorithm=\"sha256\"","x":1}`), false},
		{"init-data", swap(`"init-data":null`, `"init-data":{"format":"toml","body":"version=\"0.1.0\"\nalgorithm=\"sha256\""}`), true},
		{"init-data as JSON", swap(`"init-data":null`, `"init-data":{"format":"json","body":"version=\"0.1.0\"\nalgorithm=\"sha256\""}`), false},
		{"no nonce", swap(`"nonce":`, `"once":`), false},
		{"null key", regexp.MustCompile(`"tee-pubkey":\{[^}]*\}`).ReplaceAllString(good, `"tee-pubkey":null`), false},
		{"no evidence", swap(`"tee-evidence"`, `"evidence"`), false},
		{"no additional evidence", swap(`,"additional_evidence":""`, ``), false},
		{"additional evidence an object", swap(`"additional_evidence":""`, `"additional_evidence":{}`), false},
		{"evidence as text", regexp.MustCompile(`"primary_evidence":\{.*\},"additional`).ReplaceAllString(good, `"primary_evidence":"x","additional`), false},
		{"nonce twice", swap(`"nonce":`, `"nonce":"x","nonce":`), false},
		{"a deep member", swap(`"cert_chain":`, `"x":`+strings.Repeat(`{"a":`, 20)+`1`+strings.Repeat(`}`, 20)+`,"cert_chain":`), false},
		{"65 members", swap(`"init-data":null`, `"init-data":null`+strings.Join(names(65), "")), false},
		{"half a surrogate", swap(`"additional_evidence":""`, `"additional_evidence":"\ud800"`), false},
		{"not UTF-8", swap(`"additional_evidence":""`, "\"additional_evidence\":\"\xff\""), false},
		{"a control character", swap(`"additional_evidence":""`, "\"additional_evidence\":\"\x01\""), false},
		{"trailing", good + "{}", false},
		{"cut", good[:len(good)-1], false},
		{"a byte order mark", "\ufeff" + good, false},
		{"long", good + strings.Repeat(" ", 1<<20), false},
	} {
		_, err := kbs.ParseAttest([]byte(c.body))
		if (err == nil) != c.ok {
			t.Errorf("%s: accepted %v: %v", c.name, err == nil, err)
		}
		var e *kbs.Error
		if err != nil && !errors.As(err, &e) {
			t.Errorf("%s: not an answer: %v", c.name, err)
		}
	}
}

func names(n int) (out []string) {
	for i := range n {
		out = append(out, fmt.Sprintf(`,"m%d":0`, i))
	}
	return out
}

// TestErrorsTellNothing: whatever came, the client reads fixed words, and even
// the operator's text quotes no value.
func TestErrorsTellNothing(t *testing.T) {
	const secret = "c2VjcmV0LW1hcmtlcg"
	for _, body := range []string{
		`{"runtime-data":{"nonce":"` + secret + `","tee-pubkey":{"kty":"` + secret + `"}},"tee-evidence":{}}`,
		`{"` + secret + `":1,"` + secret + `":1}`,
		`{"init-data":{"format":"` + secret + `","body":""}}`,
	} {
		_, err := kbs.ParseAttest([]byte(body))
		var e *kbs.Error
		if !errors.As(err, &e) || strings.Contains(e.Error()+string(e.JSON()), secret) || e.Unwrap() == nil {
			t.Errorf("%s: %v", body, err)
		}
		if string(e.JSON()) != string(kbs.AttestFailed(nil).JSON()) {
			t.Errorf("another answer: %s", e.JSON())
		}
	}
}

func TestErrorInformation(t *testing.T) {
	for _, c := range []struct {
		e      *kbs.Error
		status int
		retry  bool
	}{
		{kbs.AuthFailed(nil), 401, false},
		{kbs.AttestFailed(nil), 401, false},
		{kbs.AttestRefused("01J"), 403, false},
		{kbs.TokenNotFound(), 401, false},
		{kbs.TokenRefused(nil), 401, false},
		{kbs.PolicyDenied("01J"), 403, false},
		{kbs.PluginNotFound("\"\\\n\x00é<&>" + strings.Repeat("x", 100)), 404, false},
		{kbs.InvalidPath(), 404, false},
		{kbs.ResourceAbsent(), 404, false},
		{kbs.TooMany(time.Second), 429, true},
		{kbs.Unavailable(time.Second, nil), 503, true},
		{kbs.TooLarge(), 413, false},
	} {
		var v struct{ Type, Detail string }
		if err := json.Unmarshal(c.e.JSON(), &v); err != nil || c.e.Status != c.status || v.Detail != c.e.Detail {
			t.Errorf("%v: %d %s", err, c.e.Status, c.e.JSON())
		}
		if v.Type != "https://github.com/confidential-containers/kbs/errors/"+c.e.Variant || c.e.Variant == "" {
			t.Errorf("type %q", v.Type)
		}
		if regexp.MustCompile(`[^ -~]`).MatchString(c.e.Detail) {
			t.Errorf("%q may not stand in a log", c.e.Detail)
		}
		if len(c.e.Detail) > 100 || (c.e.RetryAfter > 0) != c.retry {
			t.Errorf("%q, retry after %v", c.e.Detail, c.e.RetryAfter)
		}
	}
}

func TestChallengeNonce(t *testing.T) {
	raw, err := base64.StdEncoding.DecodeString(kbs.NonceText([32]byte{0xff, 0xfb}))
	if err != nil || len(raw) != 32 || raw[0] != 0xff {
		t.Errorf("%x, %v", raw, err)
	}
	if got := string(kbs.Challenge{Nonce: `a"b`}.JSON()); got != `{"nonce":"a\"b","extra-params":""}` {
		t.Error(got)
	}
}
