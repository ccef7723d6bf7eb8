package kbs_test

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"

	josecipher "github.com/go-jose/go-jose/v4/cipher"

	"github.com/eosc-siesta/siestad/internal/kbs"
)

// TestClientTolerances is the table of what stock clients were seen to take and
// to refuse (kbs-client and trustee-attester of guest-components 0.21.0, aproxy).
// It shows that the emulation of client_test.go is as strict as they are: what
// they refused, it refuses in at least one of the two builds, and what they took,
// it takes in both. What this package writes is in the table, too.
func TestClientTolerances(t *testing.T) {
	g := guestKey(t, "P-256")
	sealed := func(change func(w map[string]any, header string) string) func() error {
		return func() error {
			answer, err := sealedAs(g, change)
			if err != nil {
				t.Fatal(err)
			}
			return opens(g, answer)
		}
	}
	header := func(old, replacement string) func() error {
		return sealed(func(_ map[string]any, h string) string {
			changed := strings.Replace(h, old, replacement, 1)
			if changed == h {
				t.Fatalf("%q is not in %s", old, h)
			}
			return changed
		})
	}
	member := func(change func(w map[string]any)) func() error {
		return sealed(func(w map[string]any, h string) string { change(w); return h })
	}
	challenge := func(body string) func() error { return func() error { return stockChallenge([]byte(body)) } }
	token := func(token string) func() error { return func() error { return stockToken(kbs.TokenJSON(token)) } }

	cookie := func(attributes string) func() error {
		return func() error { return stockCookie("kbs-session-id=a0c8983379f74149acf1ee51193f4d02; " + attributes) }
	}

	for _, c := range []struct {
		name  string
		read  func() error
		takes bool
	}{
		{"answer: ours", func() error {
			answer, err := kbs.Seal(g.public, []byte("secret"))
			return errors.Join(err, opens(g, answer))
		}, true},
		{"answer: made by the test as ours", member(func(map[string]any) {}), true},
		{"answer: enc before alg", header(`"alg":"ECDH-ES+A256KW","enc":"A256GCM"`, `"enc":"A256GCM","alg":"ECDH-ES+A256KW"`), false},
		{"answer: epk in the order of go-jose", header(`"crv":"P-256","kty":"EC"`, `"kty":"EC","crv":"P-256"`), false},
		{"answer: epk first", sealed(func(_ map[string]any, h string) string {
			i := strings.Index(h, `,"epk":`)
			return "{" + h[i+1:len(h)-1] + "," + h[1:i] + "}"
		}), false},
		{"answer: a blank in the header", header(`":`, `": `), false},
		{"answer: a line end after the header", header(`"}}`, "\"}}\n"), false},
		{"answer: apu after epk", header(`"}}`, `"},"apu":""}`), false},
		{"answer: apv after epk", header(`"}}`, `"},"apv":""}`), false},
		{"answer: kid at the end", header(`"}}`, `"},"kid":"k"}`), true},
		{"answer: aad null", member(func(w map[string]any) { w["aad"] = nil }), false},
		{"answer: another member", member(func(w map[string]any) { w["note"] = "x" }), true},
		{"answer: no tag", member(func(w map[string]any) { delete(w, "tag") }), false},
		{"answer: no encrypted_key", member(func(w map[string]any) { delete(w, "encrypted_key") }), false},
		{"answer: padding", member(func(w map[string]any) { w["tag"] = "==" }), false},

		{"challenge: ours", challenge(string(kbs.Challenge{Nonce: "n"}.JSON())), true},
		{"challenge: ours with sha512", challenge(string(kbs.Challenge{Nonce: "n", Hash: kbs.SHA512}.JSON())), true},
		{"challenge: no extra-params", challenge(`{"nonce":"n"}`), false},
		{"challenge: extra-params {}", challenge(`{"nonce":"n","extra-params":{}}`), true},
		{"challenge: extra-params null", challenge(`{"nonce":"n","extra-params":null}`), true},
		{"challenge: another member", challenge(`{"nonce":"n","extra-params":"","x":1}`), true},
		{"challenge: unknown hash", challenge(`{"nonce":"n","extra-params":{"selected-hash-algorithm":"md5"}}`), false},

		{"token: claims", token("h." + b64.EncodeToString([]byte(`{"exp":1795466407}`)) + ".s"), true},
		{"token: no exp", token("h." + b64.EncodeToString([]byte(`{}`)) + ".s"), true},
		{"token: opaque", token("opaque"), false},
		{"token: padding", token("h." + b64.EncodeToString([]byte(`{}`)) + "=.s"), false},

		{"cookie: as the stock server sets it", cookie("Expires=Mon, 23 Nov 2099 20:33:31 GMT"), true},
		{"cookie: bare", cookie(""), true},
		{"cookie: path, hidden, strict", cookie("Path=/kbs/v0; HttpOnly; SameSite=Strict"), true},
		{"cookie: max-age", cookie("Max-Age=300"), true},
		{"cookie: path of /auth", cookie("Path=/kbs/v0/auth"), false},
		{"cookie: of another host", cookie("Domain=example.org"), false},

		{"error: ours", func() error { return stockError(kbs.PolicyDenied("01J0").JSON()) }, true},
		{"error: not JSON", func() error { return stockError([]byte("denied")) }, false},
		{"error: empty", func() error { return stockError(nil) }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := c.read(); (err == nil) != c.takes {
				t.Errorf("taken: %v, seen with stock clients: %v (%v)", err == nil, c.takes, err)
			}
		})
	}
}

// opens fails unless both builds of the client read the secret.
func opens(g guest, answer []byte) error {
	for _, sorted := range []bool{false, true} {
		if got, err := stockClient(g, answer, sorted); err != nil || string(got) != "secret" {
			return fmt.Errorf("sorted %v: %q, %w", sorted, got, errors.Join(err, errors.New("not opened")))
		}
	}
	return nil
}

// sealedAs seals without Seal: header as ours, then changed, and authenticated as
// it is sent. change may also change the members of the answer.
func sealedAs(g guest, change func(w map[string]any, header string) string) ([]byte, error) {
	ephemeral, err := ecdsa.GenerateKey(g.ec.Curve, rand.Reader)
	if err != nil {
		return nil, err
	}
	dh, err := ephemeral.ECDH()
	if err != nil {
		return nil, err
	}
	point := dh.PublicKey().Bytes()[1:]
	header := fmt.Sprintf(`{"alg":"ECDH-ES+A256KW","enc":"A256GCM","epk":{"crv":"P-256","kty":"EC","x":%q,"y":%q}}`,
		b64.EncodeToString(point[:32]), b64.EncodeToString(point[32:]))
	cek, iv := make([]byte, 32), make([]byte, 12)
	_, _ = rand.Read(cek)
	_, _ = rand.Read(iv)
	kek, err := aes.NewCipher(josecipher.DeriveECDHES("ECDH-ES+A256KW", nil, nil, ephemeral, &g.ec.PublicKey, 32))
	if err != nil {
		return nil, err
	}
	wrapped, err := josecipher.KeyWrap(kek, cek)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(cek)
	if err != nil {
		return nil, err
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	// The members exist before the header is changed, so that change sees them all;
	// those that depend on the header are filled in if they are still there.
	w := map[string]any{
		"protected": "", "encrypted_key": b64.EncodeToString(wrapped), "iv": b64.EncodeToString(iv), "ciphertext": "", "tag": "",
	}
	protected := b64.EncodeToString([]byte(change(w, header)))
	sealed := gcm.Seal(nil, iv, []byte("secret"), []byte(protected))
	for name, v := range map[string]string{
		"protected": protected, "ciphertext": b64.EncodeToString(sealed[:6]), "tag": b64.EncodeToString(sealed[6:]),
	} {
		if old, there := w[name]; there {
			w[name] = v + old.(string) // what change put there stands behind
		}
	}
	return json.Marshal(w)
}

// stockChallenge reads a challenge as the clients do.
func stockChallenge(body []byte) error {
	var c map[string]json.RawMessage
	if err := json.Unmarshal(body, &c); err != nil {
		return err
	}
	if c["nonce"] == nil || c["extra-params"] == nil {
		return errors.New("nonce or extra-params is missing")
	}
	var extra struct {
		Hash string `json:"selected-hash-algorithm"`
	}
	_ = json.Unmarshal(c["extra-params"], &extra) // "" and null select nothing
	switch strings.ToLower(extra.Hash) {
	case "", "sha256", "sha384", "sha512", "sm3":
		return nil
	}
	return errors.New("unknown hash")
}

// stockToken reads a token as the clients do: three parts, claims without padding.
func stockToken(body []byte) error {
	var w struct{ Token *string }
	if err := json.Unmarshal(body, &w); err != nil || w.Token == nil {
		return errors.Join(errors.New("no token"), err)
	}
	parts := strings.Split(*w.Token, ".")
	if len(parts) != 3 {
		return errors.New("not three parts")
	}
	payload, err := b64.DecodeString(parts[1])
	if err != nil {
		return err
	}
	var claims struct{ Exp, Nbf *int64 }
	return json.Unmarshal(payload, &claims)
}

// stockError reads an error as the clients do, on any status.
func stockError(body []byte) error {
	var e struct{ Type, Detail *string }
	if err := json.Unmarshal(body, &e); err != nil {
		return err
	}
	if e.Type == nil || e.Detail == nil {
		return errors.New("type or detail is missing")
	}
	return nil
}

// stockCookie keeps a cookie of /auth as the clients' store does, for /attest and
// the resource.
func stockCookie(header string) error {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return err
	}
	at := url.URL{Scheme: "http", Host: "127.0.0.1:27081", Path: kbs.Prefix + "/auth"}
	jar.SetCookies(&at, (&http.Response{Header: http.Header{"Set-Cookie": {header}}}).Cookies())
	for _, path := range []string{"/attest", "/resource/default/sample/test"} {
		at.Path = kbs.Prefix + path
		if got := jar.Cookies(&at); len(got) != 1 || got[0].Name != kbs.Cookie || !kbs.ValidSession(got[0].Value) {
			return fmt.Errorf("%d cookies go to %s", len(got), path)
		}
	}
	return nil
}
