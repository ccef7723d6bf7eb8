package api

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/door"
	"github.com/eosc-siesta/siestad/internal/keybroker"
)

// One nonce, one attempt, whatever became of it.
func TestKBSNonceIsSpent(t *testing.T) {
	for name, alter := range map[string]func(body map[string]any){
		"after success":       nil,
		"after another nonce": func(b map[string]any) { b["runtime-data"].(map[string]any)["nonce"] = "AAAA" },
		"after a broken body": func(b map[string]any) { delete(b, "tee-evidence") },
		"after refused evidence": func(b map[string]any) {
			e := b["tee-evidence"].(map[string]any)["primary_evidence"].(map[string]any)
			e["attestation_report"].(map[string]any)["report_data"] = make([]int, 64)
		},
		"after evidence of nobody": func(b map[string]any) {
			e := b["tee-evidence"].(map[string]any)["primary_evidence"].(map[string]any)
			e["attestation_report"].(map[string]any)["measurement"] = make([]int, 48)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newPlainWorld(t)
			c := w.client()
			c.auth()
			c.alter = alter
			status, _ := c.attest()
			if (status == 200) != (alter == nil) {
				t.Fatalf("first: %d", status)
			}
			c.alter = nil
			if status, _ := c.attest(); status != http.StatusUnauthorized {
				t.Errorf("second: %d", status)
			}
			if status, _, _ := c.get(kbsPath); alter != nil && status != http.StatusUnauthorized {
				t.Errorf("a session that proved nothing gets %d", status)
			}
		})
	}
}

func TestKBSOneOfManyAttemptsWins(t *testing.T) {
	w := newPlainWorld(t)
	c := w.client()
	c.auth()
	body, err := json.Marshal(c.attestation())
	must(t, err)
	var wg sync.WaitGroup
	statuses := make([]int, 8)
	for i := range statuses {
		wg.Go(func() {
			one := *c
			statuses[i], _, _ = one.send("POST", "/kbs/v0/attest", body)
		})
	}
	wg.Wait()
	won := 0
	for _, s := range statuses {
		switch s {
		case 200:
			won++
		case 401:
		default:
			t.Errorf("an attempt got %d", s)
		}
	}
	if won != 1 {
		t.Errorf("%d attempts won", won)
	}
}

// Evidence for one handshake is worth nothing in another, and neither is the key.
func TestKBSReplay(t *testing.T) {
	w := newPlainWorld(t)
	victim := w.client()
	victim.auth()
	body := victim.attestation()
	thief := w.client()
	thief.auth()
	replayed := func(change func()) int {
		thief.cookie = ""
		thief.auth()
		change()
		status, _, _ := thief.send("POST", "/kbs/v0/attest", body)
		return status
	}
	runtime := body["runtime-data"].(map[string]any)
	if status := replayed(func() {}); status != 401 {
		t.Errorf("as it is: %d", status)
	}
	if status := replayed(func() { runtime["nonce"] = thief.nonce }); status != 403 {
		t.Errorf("with the new nonce written in: %d", status)
	}
	if status := replayed(func() { runtime["nonce"], runtime["tee-pubkey"] = thief.nonce, thief.jwk() }); status != 403 {
		t.Errorf("with another key: %d", status)
	}
	if n := w.audited("guest.attest", audit.Refused, "report_data"); n != 2 {
		t.Errorf("%d entries", n)
	}
}

// A token names a session and is worth what that session is worth: nothing, once it or the lease is gone.
func TestKBSTokenAloneReleasesNothing(t *testing.T) {
	for name, row := range map[string]struct {
		status int
		do     func(w *world, clock *testClock, token *string)
	}{
		"while its session and lease live": {200, func(*world, *testClock, *string) {}},
		"session run out": {401, func(w *world, _ *testClock, _ *string) {
			w.exec(`UPDATE broker_kbs_session SET expires_at = now() - interval '1 second'`)
		}},
		"session gone": {401, func(w *world, _ *testClock, _ *string) { w.exec(`DELETE FROM broker_kbs_session`) }},
		"lease gone": {403, func(w *world, _ *testClock, _ *string) {
			w.exec(`UPDATE broker_lease SET state = 'ended', ended_why = 'x'`)
		}},
		"token run out":     {401, func(_ *world, clock *testClock, _ *string) { clock.advance(10 * time.Minute) }},
		"another signature": {401, func(_ *world, _ *testClock, token *string) { *token = (*token)[:len(*token)-8] + "AAAAAAAA" }},
		"not a token":       {401, func(_ *world, _ *testClock, token *string) { *token = "x" }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			clock := &testClock{}
			w := newWorld(t, setup{verifier: plainVerifier{}, now: clock.now}, plainHardware{measurement: [48]byte{1}})
			c := w.client()
			token := c.ready()
			row.do(w, clock, &token)
			c.cookie = ""
			status, secret, answer := c.get(kbsPath, "Authorization", "Bearer "+token)
			kind, _ := answer["type"].(string)
			if status != row.status || status == 401 && !strings.HasSuffix(kind, "/TokenVerifierError") || status == 200 && !bytes.Equal(secret, kbsPayload) {
				t.Errorf("%d %v", status, answer)
			}
		})
	}
}

func TestKBSMalformedAndOutOfOrder(t *testing.T) {
	w := newPlainWorld(t)
	good := map[string]any{"version": "0.4.0", "tee": "snp", "extra-params": ""}
	with := func(name string, v any) map[string]any {
		m := map[string]any{}
		for k, old := range good {
			m[k] = old
		}
		if m[name] = v; v == nil {
			delete(m, name)
		}
		return m
	}
	for name, row := range map[string]struct {
		method, path string
		body         any
		cookie       string
		status       int
		says         string
	}{
		"auth wrong version":         {"POST", "/kbs/v0/auth", with("version", "0.1.1"), "", 401, "expect =0.4.0 while the request is 0.1.1"},
		"auth unknown tee":           {"POST", "/kbs/v0/auth", with("tee", "nope"), "", 401, ""},
		"auth sample":                {"POST", "/kbs/v0/auth", with("tee", "sample"), "", 403, "sample"},
		"auth sampledevice":          {"POST", "/kbs/v0/auth", with("tee", "sampledevice"), "", 403, "sampledevice"},
		"auth no extra-params":       {"POST", "/kbs/v0/auth", with("extra-params", nil), "", 401, ""},
		"auth unknown member":        {"POST", "/kbs/v0/auth", with("more", 1), "", 200, ""},
		"auth bad json":              {"POST", "/kbs/v0/auth", []byte("{"), "", 401, ""},
		"auth nothing":               {"POST", "/kbs/v0/auth", nil, "", 401, ""},
		"auth too large":             {"POST", "/kbs/v0/auth", make([]byte, 17<<10), "", 413, ""},
		"auth se":                    {"POST", "/kbs/v0/auth", with("tee", "se"), "", 403, ""},
		"auth GET":                   {"GET", "/kbs/v0/auth", nil, "", 404, "auth"},
		"auth PATCH":                 {"PATCH", "/kbs/v0/auth", nil, "", 404, ""},
		"auth with slashes inside":   {"POST", "/kbs/v0//auth", good, "", 200, ""},
		"attest no cookie":           {"POST", "/kbs/v0/attest", map[string]any{}, "", 401, ""},
		"attest unknown cookie":      {"POST", "/kbs/v0/attest", map[string]any{}, strings.Repeat("0", 32), 401, ""},
		"attest odd cookie":          {"POST", "/kbs/v0/attest", map[string]any{}, "x", 401, ""},
		"resource unknown cookie":    {"GET", kbsPath, nil, strings.Repeat("0", 32), 401, "Token not found"},
		"resource two segments":      {"GET", "/kbs/v0/resource/default/sample", nil, "", 404, ""},
		"resource four segments":     {"GET", "/kbs/v0/resource/a/b/c/d", nil, "", 404, ""},
		"resource dots":              {"GET", "/kbs/v0/resource/a/b/%2e%2e", nil, "", 404, ""},
		"resource percent":           {"GET", "/kbs/v0/resource/a/b/c%2Fd", nil, "", 404, ""},
		"resource POST":              {"POST", kbsPath, nil, "", 405, ""},
		"resource DELETE":            {"DELETE", kbsPath, nil, "", 405, ""},
		"plugin":                     {"GET", "/kbs/v0/nosuch/x", nil, "", 404, "Plugin nosuch not found"},
		"policy of the stock server": {"POST", "/kbs/v0/attestation-policy", nil, "", 404, ""},
		"root":                       {"GET", "/kbs/v0", nil, "", 404, "Plugin  not found"},
		"root with a slash":          {"GET", "/kbs/v0/", nil, "", 404, "Plugin  not found"},
	} {
		t.Run(name, func(t *testing.T) {
			c := w.client()
			c.w = &world{rig: w.rig, server: w.server}
			c.w.t, c.cookie = t, row.cookie
			status, answer, _ := c.send(row.method, row.path, row.body)
			detail, _ := answer["detail"].(string)
			if status != row.status || !strings.Contains(detail, row.says) {
				t.Errorf("%d %v, want %d %q", status, answer, row.status, row.says)
			}
		})
	}
}

func TestKBSCookie(t *testing.T) {
	w := newPlainWorld(t)
	c := w.client()
	_, _, header := c.send("POST", "/kbs/v0/auth", map[string]any{"version": "0.4.0", "tee": "snp", "extra-params": ""})
	set := header.Get("Set-Cookie")
	if !strings.HasPrefix(set, "kbs-session-id="+c.cookie+"; Path=/kbs/v0; Expires=") || !strings.Contains(set, "HttpOnly") || strings.Contains(set, "Secure") || len(c.cookie) != 32 || c.cookie[12] != '4' {
		t.Errorf("Set-Cookie: %s", set)
	}
	if n := w.count(`SELECT count(*) FROM broker_kbs_session s WHERE s::text LIKE '%' || $1 || '%'`, c.cookie); n != 0 {
		t.Error("the database holds the cookie")
	}
	c.ready()
	c.send("GET", kbsPath, nil) // fine so far
	req, err := http.NewRequestWithContext(context.Background(), "GET", w.server.URL+kbsPath, nil)
	must(t, err)
	req.Header.Add("Cookie", "kbs-session-id="+strings.Repeat("1", 32)+"; kbs-session-id="+c.cookie)
	resp, err := w.server.Client().Do(req)
	must(t, err)
	resp.Body.Close()
	if resp.StatusCode != 401 {
		t.Errorf("two cookies: %d", resp.StatusCode)
	}
}

func TestKBSLimits(t *testing.T) {
	w := newPlainWorld(t)
	c := w.client()
	c.ready()
	seen := map[int]int{}
	for range 80 {
		status, _, header := c.send("GET", "/kbs/v0/resource/default/sample/nope", nil)
		if seen[status]++; status == 429 && header.Get("Retry-After") == "" {
			t.Fatal("429 without Retry-After")
		}
	}
	if seen[404] < 30 || seen[429] < 5 {
		t.Errorf("80 requests for what is not there: %v", seen)
	}
	if n := w.audited("secret.release", audit.Refused, keybroker.CodeSecret); n > 31 {
		t.Errorf("%d entries: a guest can fill the log", n)
	}
}

func TestKBSWithoutAKeyStore(t *testing.T) {
	w := newPlainWorld(t)
	c := w.client()
	c.ready()
	w.store.mu.Lock()
	w.store.fail = errors.New("away")
	w.store.mu.Unlock()
	status, _, header := c.send("GET", kbsPath, nil)
	if status != 503 || header.Get("Retry-After") == "" {
		t.Errorf("%d %v", status, header)
	}
	w.store.mu.Lock()
	w.store.fail = nil
	for name, blob := range w.store.payloads {
		if strings.Contains(name, w.secret.ID) {
			blob[len(blob)-1] ^= 1
		}
	}
	w.store.mu.Unlock()
	if status, _, _ := c.get(kbsPath); status != 403 {
		t.Errorf("another blob than was put there: %d", status)
	}
	if n := w.audited("secret.open", audit.Refused, keybroker.CodeKeyBlob); n != 1 {
		t.Errorf("%d entries about a store that lies", n)
	}
}

func TestKBSWithoutCollateral(t *testing.T) {
	w := newPlainWorld(t)
	c := w.client()
	c.auth()
	c.alter = func(b map[string]any) {
		b["tee-evidence"].(map[string]any)["primary_evidence"].(map[string]any)["cert_chain"] = nil
	}
	status, _, header := c.send("POST", "/kbs/v0/attest", c.attestation())
	if status != 503 || header.Get("Retry-After") != "30" {
		t.Errorf("%d %v", status, header)
	}
}

func TestKBSInitData(t *testing.T) {
	w := newPlainWorld(t)
	c := w.client()
	c.auth()
	c.alter = func(b map[string]any) {
		b["init-data"] = map[string]any{"format": "toml", "body": "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n"}
	}
	if status, _ := c.attest(); status != 403 {
		t.Errorf("init-data that nobody measured: %d", status)
	}
	if n := w.audited("guest.attest", audit.Refused, "host_data"); n != 1 {
		t.Errorf("%d entries", n)
	}
}

func TestKBSWithoutTokens(t *testing.T) {
	r := newRigWith(t, setup{noTokens: true})
	r.want(503, person{}, "POST", "/kbs/v0/auth", map[string]any{"version": "0.4.0", "tee": "snp", "extra-params": ""})
	r.want(404, person{}, "GET", "/v1/jwks", nil)
	r.want(404, person{}, "POST", "/v1/attestations", door.GrantRequest{
		Challenge: "c", Evidence: door.Evidence{TEE: "sev-snp", Report: []byte{1}}, SigningKey: make([]byte, 32),
		HPKE: door.HPKEKey{KEM: door.KEMX25519, PublicKey: bytes.Repeat([]byte{9}, 32)},
	})
}

// Attestation at the native door: a token, and neither key nor lease.
func TestAttestation(t *testing.T) {
	w := newPlainWorld(t)
	ctx := context.Background()
	req, c, err := w.native([32]byte{7}, door.Attest)
	must(t, err)
	if _, err := w.broker.Broker.Grant(ctx, req, "192.0.2.1"); err == nil {
		t.Fatal("a challenge for an attestation gives a key")
	}
	req, c, err = w.native([32]byte{7}, door.Attest)
	must(t, err)
	var answer struct{ Token string }
	w.want(200, person{}, "POST", "/v1/attestations", req).into(t, &answer)
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(answer.Token, ".")[1])
	must(t, err)
	if !bytes.Contains(payload, []byte(base64.RawURLEncoding.EncodeToString(c.Nonce))) || !bytes.Contains(payload, []byte(`"OKP"`)) {
		t.Errorf("claims: %s", payload)
	}
	if n := w.count(`SELECT count(*) FROM broker_lease`); n != 1 {
		t.Error("an attestation began a lease")
	}
	if n := w.count(`SELECT count(*) FROM broker_decision WHERE outcome = 'attested' AND lease IS NULL`); n != 1 {
		t.Error("no decision")
	}
	w.want(403, person{}, "POST", "/v1/attestations", req) // the challenge is spent
	unlock, _, err := w.native([32]byte{7}, door.Renew)
	must(t, err)
	w.want(403, person{}, "POST", "/v1/attestations", unlock)
}
