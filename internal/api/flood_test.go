package api

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/door"
)

// post sends to the guests' door as a guest does, from the one address that every client of a test has.
func (w *world) post(path string, message, answer any) int {
	w.t.Helper()
	body, err := json.Marshal(message)
	must(w.t, err)
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodPost, w.server.URL+path, bytes.NewReader(body))
	must(w.t, err)
	req.Header.Set("Content-Type", "application/json")
	resp, err := w.server.Client().Do(req)
	must(w.t, err)
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK && answer != nil {
		must(w.t, json.NewDecoder(resp.Body).Decode(answer))
	}
	return resp.StatusCode
}

// Strangers behind the very address of a guest, one of whom knows its workspace, do what they can: the guest renews, says
// what it has to say, attests and gets its secret.
func TestStrangersLockNobodyOut(t *testing.T) {
	w := newPlainWorld(t)
	w.broker.native = true
	renew := door.ChallengeRequest{Workspace: kbsWorkspace, Generation: 1, Purpose: door.Renew}
	before := w.client()
	if status := before.auth(); status != http.StatusOK {
		t.Fatal(status)
	}
	var challenge door.Challenge
	for i := range 100 {
		if status := w.post("/v1/challenges", renew, nil); status != http.StatusOK {
			t.Fatalf("challenge %d: %d", i, status)
		}
		w.post("/v1/challenges", door.ChallengeRequest{Workspace: "nobody", Generation: 1, Purpose: door.Unlock}, nil)
		w.post("/v1/guests/nobody/events", door.Event{Seq: 1, Stage: door.Ready, Signature: make([]byte, 64)}, nil)
		w.post("/kbs/v0/auth", "not a request", nil)
	}
	if status := w.post("/v1/challenges", renew, &challenge); status != http.StatusOK {
		t.Fatalf("the guest asks for a challenge: %d", status)
	}
	key, err := door.GenerateKey(door.KEMX25519)
	must(t, err)
	sign := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{9}, 32))
	report, vcek := w.hw.report(t, door.ReportData(door.Binding{
		Challenge: challenge.Challenge, Nonce: challenge.Nonce, Workspace: renew.Workspace, Generation: 1, Purpose: renew.Purpose,
		KEM: key.Public().KEM, HPKEKey: key.Public().PublicKey, SigningKey: sign.Public().(ed25519.PublicKey),
	}), w.boot)
	var grant door.Grant
	if status := w.post("/v1/grants", door.GrantRequest{
		Challenge: challenge.Challenge, Evidence: door.Evidence{TEE: string(attest.SEVSNP), Report: report, Certificates: vcek},
		HPKE: key.Public(), SigningKey: sign.Public().(ed25519.PublicKey),
	}, &grant); status != http.StatusOK || grant.Lease.ID != w.lease {
		t.Errorf("its renewal: %d %+v", status, grant.Lease)
	}
	e := door.Event{Seq: 1, Stage: door.Ready}
	door.SignEvent(sign, w.lease, &e)
	if status := w.post("/v1/guests/"+w.lease+"/events", e, nil); status != http.StatusOK {
		t.Errorf("its event: %d", status)
	}
	if status, _ := before.attest(); status != http.StatusOK {
		t.Errorf("a session that was opened before: %d", status)
	}
	c := w.client()
	c.ready()
	if status, secret, _ := c.get(kbsPath); status != http.StatusOK || !bytes.Equal(secret, kbsPayload) {
		t.Errorf("its secret: %d", status)
	}
}

// Sessions that nobody attests are bounded; those go first whose asker has the most, and of these the oldest.
func TestKBSManyUnusedSessions(t *testing.T) {
	w := newPlainWorld(t)
	c := w.client()
	if status := c.auth(); status != http.StatusOK {
		t.Fatal(status)
	}
	w.exec(`INSERT INTO broker_kbs_session (id, cookie, nonce, tee, hash, peer, expires_at, used_at)
		SELECT 's' || i, sha256(i::text::bytea), sha256(i::text::bytea), 'snp', 'sha384', '198.51.100.66', now() + interval '1 second',
			CASE WHEN i % 2 = 0 THEN now() - interval '2 minutes' END FROM generate_series(1, 10000) i`)
	for range 300 {
		if status := w.client().auth(); status != http.StatusOK {
			t.Fatalf("one session more: %d", status)
		}
	}
	if n := w.count(`SELECT count(*) FROM broker_kbs_session`); n > 8192+256 {
		t.Errorf("%d sessions are kept", n)
	}
	if n := w.count(`SELECT count(*) FROM broker_kbs_session WHERE peer <> '198.51.100.66'`); n != 301 {
		t.Errorf("%d of 301 sessions of the guests' address are left", n)
	}
	if status, _ := c.attest(); status != http.StatusOK {
		t.Errorf("the oldest of them: %d", status)
	}
}

// What cannot be read is a refusal like others.
func TestUnreadableRequestsAreCounted(t *testing.T) {
	w := newPlainWorld(t)
	w.broker.native = true
	c := w.client()
	for name, do := range map[string]func(){
		"auth":           func() { c.send("POST", "/kbs/v0/auth", []byte("{")) },
		"auth too large": func() { c.send("POST", "/kbs/v0/auth", make([]byte, 17<<10)) },
		"attest": func() {
			c.auth()
			c.send("POST", "/kbs/v0/attest", []byte("{}"))
		},
		"attest without a session": func() { (&client{w: w}).send("POST", "/kbs/v0/attest", []byte("{}")) },
		"resource":                 func() { c.send("GET", "/kbs/v0/resource/a/b/%2e%2e", nil) },
		"challenge":                func() { w.post("/v1/challenges", "x", nil) },
		"grant":                    func() { w.post("/v1/grants", "x", nil) },
		"event":                    func() { w.post("/v1/guests/x/events", "x", nil) },
		"attestation":              func() { w.post("/v1/attestations", "x", nil) },
	} {
		before, told := w.refusals(attest.CodeFormat), w.broker.unreadable.Load()
		do()
		if n := w.refusals(attest.CodeFormat) - before; n != 1 {
			t.Errorf("%s: counted %v times", name, n)
		}
		// What the broker itself parses it counts by itself.
		if n := w.broker.unreadable.Load() - told; (n == 1) != (name != "attest") {
			t.Errorf("%s: the broker is told %d times", name, n)
		}
	}
}

// refusals reads the metric as a scraper would.
func (r *rig) refusals(code string) (n float64) {
	r.t.Helper()
	families, err := r.metrics.Gather()
	must(r.t, err)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "siestad_guest_refusals_total" && m.GetLabel()[0].GetValue() == code {
				n += m.GetCounter().GetValue()
			}
		}
	}
	return n
}

// An event log beside a report that has none is refused, over the wire as well, and nothing of it is kept.
func TestAttestationWithAnEventLog(t *testing.T) {
	w := newPlainWorld(t)
	req, _, err := w.native(w.boot, door.Attest)
	must(t, err)
	blobs := w.count(`SELECT count(*) FROM broker_blob`)
	req.Evidence.EventLog = make([]byte, 32<<10)
	w.want(403, person{}, "POST", "/v1/attestations", req)
	if n := w.count(`SELECT count(*) FROM broker_blob`); n != blobs || w.refusals(attest.CodeEventLog) != 1 {
		t.Errorf("%d blobs were kept, %v refusals counted", n-blobs, w.refusals(attest.CodeEventLog))
	}
}

// A machine has as many addresses of its network as it likes, and no more credit for that.
func TestPeer(t *testing.T) {
	for remote, want := range map[string]string{
		"192.0.2.1:80":            "192.0.2.1",
		"[::ffff:192.0.2.1]:80":   "192.0.2.1",
		"[2001:db8:1:2:3::4]:80":  "2001:db8:1:2::/64",
		"[2001:db8:1:2:ff::1]:81": "2001:db8:1:2::/64",
		"[fe80::1%eth0]:80":       "fe80::/64",
		"pipe":                    "pipe",
	} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
		r.RemoteAddr = remote
		if got := peer(r); got != want {
			t.Errorf("%s: %s, want %s", remote, got, want)
		}
	}
}
