package api

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/jackc/pgx/v5"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/door"
	"github.com/eosc-siesta/siestad/internal/kbs"
	"github.com/eosc-siesta/siestad/internal/keybroker"
	"github.com/eosc-siesta/siestad/internal/postgres"
)

const (
	kbsWorkspace = "01jabcdefghjkmnpqrstvwxyz0"
	kbsPath      = "/kbs/v0/resource/default/sample/test"
)

var kbsPayload = []byte(`{"key_type":"oct","key":"0123456789abcdef0123456789abcdef"}`)

// hardware makes the reports of one boot.
type hardware interface {
	report(t testing.TB, data [64]byte, id [32]byte) (report, vcek []byte)
	policy() attest.Policy
}

// plainHardware makes reports without a signature, for tests of what the doors do with a verdict; plainVerifier judges them.
type plainHardware struct{ measurement [48]byte }

func (h plainHardware) report(_ testing.TB, data [64]byte, id [32]byte) ([]byte, []byte) {
	b := make([]byte, 1184)
	b[0], b[0x34], b[0x188], b[0x189] = 3, 1, 0x19, 0x11
	binary.LittleEndian.PutUint64(b[0x08:], attest.NovaGuestPolicy)
	copy(b[0x50:], data[:])
	copy(b[0x90:], h.measurement[:])
	copy(b[0x140:], id[:])
	return b, []byte("certificate")
}

func (h plainHardware) policy() attest.Policy {
	return attest.Policy{Products: []string{attest.Genoa}, Chips: [][]byte{make([]byte, 64)}, Measurements: [][]byte{h.measurement[:]}}
}

type plainVerifier struct{}

func (plainVerifier) Verify(ev attest.Evidence, _ attest.Collateral, pol attest.Policy, _ time.Time) (*attest.Result, error) {
	refuse := func(code string) (*attest.Result, error) {
		return nil, &attest.Refusal{Code: code, Check: code, Checks: []attest.Check{{Name: code, Status: attest.Failed, Code: code}}}
	}
	if len(ev.Report) != 1184 || !bytes.Equal(ev.Report[0x90:0xC0], pol.Measurements[0]) {
		return refuse(attest.CodeMeasurement)
	}
	if [64]byte(ev.Report[0x50:]) != pol.ReportData {
		return refuse(attest.CodeReportData)
	}
	if string(ev.Certificates) != "certificate" {
		return refuse(attest.CodeCollateral)
	}
	return &attest.Result{
		TEE: ev.TEE, Sent: ev.Certificates, ReportID: [32]byte(ev.Report[0x140:]), ReportData: pol.ReportData, Measurement: [48]byte(ev.Report[0x90:]),
	}, nil
}

// world is a project with a workspace whose guest has been booted, formatted and holds its lease, and a secret.
type world struct {
	*rig
	hw     hardware
	server *httptest.Server
	boot   [32]byte // REPORT_ID of the boot that holds the lease
	lease  string
	secret keybroker.Secret
	cookie string // of the recording that is being played
}

func newPlainWorld(t testing.TB) *world {
	hw := plainHardware{measurement: [48]byte(bytes.Repeat([]byte{0x42}, 48))}
	return newWorld(t, setup{verifier: plainVerifier{}}, hw)
}

func newWorld(t testing.TB, s setup, hw hardware) *world {
	t.Helper()
	w := &world{rig: newRigWith(t, s), hw: hw, boot: sha256.Sum256([]byte("boot"))}
	w.seed()
	w.lease = w.unlock(w.boot)
	w.exec(`UPDATE broker_volume SET header_hash = $1`, strings.Repeat("ab", 32))
	w.secret = w.put("", "default/sample/test")
	w.server = httptest.NewServer(w.door)
	t.Cleanup(w.server.Close)
	return w
}

func (w *world) exec(sql string, args ...any) {
	w.t.Helper()
	_, err := w.db.Exec(context.Background(), sql, args...)
	must(w.t, err)
}

func (w *world) count(sql string, args ...any) (n int) {
	w.t.Helper()
	must(w.t, w.db.QueryRow(context.Background(), sql, args...).Scan(&n))
	return n
}

func (w *world) seed() {
	w.t.Helper()
	w.exec(`INSERT INTO project (id, name, state, valid_until, members) VALUES ('study', 'Study', 'active', now() + interval '1 year', ARRAY['https://issuer|alice'])`)
	w.exec(`INSERT INTO dataset (id, title, version, custodian) VALUES ('cohort-v1', 'Cohort', '1', 'https://issuer|carol')`)
	w.exec(`INSERT INTO permit (id, project, dataset, people, state, until, granted_by) VALUES ('permit-1', 'study', 'cohort-v1', ARRAY['https://issuer|alice'], 'live', now() + interval '1 year', 'https://issuer|carol')`)
	blob := sha256.Sum256([]byte("file"))
	w.exec(`INSERT INTO blob (sha256, sha512, size) VALUES ($1, $2, 4)`, blob[:], make([]byte, 64))
	w.exec(`INSERT INTO image (id, name, state, kernel, initrd, firmware, created_by, registered_by, approved_by) VALUES ('01jimage', 'guest', 'approved', $1, $1, $1, 'op', 'op', 'carol')`, blob[:])
	_, err := w.broker.Prepare(context.Background(), keybroker.Volume{Workspace: kbsWorkspace, Project: "study", Site: "ifca", SecretName: "key-" + kbsWorkspace})
	must(w.t, err)
	w.arm(1)
}

func (w *world) arm(generation int) {
	w.t.Helper()
	must(w.t, postgres.InTx(context.Background(), w.db, func(tx pgx.Tx) error {
		return w.broker.Arm(context.Background(), tx, keybroker.Arm{
			Workspace: kbsWorkspace, Project: "study", Dataset: "cohort-v1", Owner: "https://issuer|alice", Image: "01jimage", Site: "ifca",
			Generation: generation, VolumeID: "vol-1", VolumeSerial: "vol-1", Policy: w.hw.policy(),
		})
	}))
}

// native makes a request of the native door, by a boot with this REPORT_ID.
func (w *world) native(boot [32]byte, purpose door.Purpose) (door.GrantRequest, door.Challenge, error) {
	req := door.ChallengeRequest{Workspace: kbsWorkspace, Generation: 1, Purpose: purpose}
	c, err := w.broker.Broker.Challenge(context.Background(), req, "192.0.2.1")
	if err != nil {
		return door.GrantRequest{}, c, err
	}
	key, err := door.GenerateKey(door.KEMX25519)
	must(w.t, err)
	sign := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{9}, 32)).Public().(ed25519.PublicKey)
	report, vcek := w.hw.report(w.t, door.ReportData(door.Binding{
		Challenge: c.Challenge, Nonce: c.Nonce, Workspace: req.Workspace, Generation: req.Generation, Purpose: purpose,
		KEM: key.Public().KEM, HPKEKey: key.Public().PublicKey, SigningKey: sign,
	}), boot)
	return door.GrantRequest{
		Challenge: c.Challenge, Evidence: door.Evidence{TEE: string(attest.SEVSNP), Report: report, Certificates: vcek},
		HPKE: key.Public(), SigningKey: sign,
	}, c, nil
}

// unlock is what siesta-guest does first: it gets the volume's key, and with it the lease.
func (w *world) unlock(boot [32]byte) string {
	w.t.Helper()
	req, _, err := w.native(boot, door.Unlock)
	must(w.t, err)
	g, err := w.broker.Broker.Grant(context.Background(), req, "192.0.2.1")
	must(w.t, err)
	return g.Lease.ID
}

// put stores a secret, for a dataset or for any.
func (w *world) put(dataset, path string) keybroker.Secret {
	w.t.Helper()
	r, err := kbs.ParseResource(path)
	must(w.t, err)
	who := audit.Actor{Kind: audit.Person, Subject: "https://issuer|carol"}
	s, err := w.broker.StageSecret(context.Background(), who, keybroker.Secret{Project: "study", Dataset: dataset, Site: "ifca", Resource: r}, door.Secret(bytes.Clone(kbsPayload)))
	must(w.t, err)
	must(w.t, postgres.InTx(context.Background(), w.db, func(tx pgx.Tx) error {
		s, _, err = w.broker.ConfirmSecret(context.Background(), tx, who, s.ID)
		return err
	}))
	return s
}

// client is a guest that speaks the protocol, written from its description alone: nothing of package kbs is used here.
type client struct {
	w      *world
	boot   [32]byte
	key    *ecdsa.PrivateKey
	cookie string
	nonce  string
	svsm   bool
	// alter changes the body of /attest before it is sent.
	alter func(body map[string]any)
}

func (w *world) client() *client {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(w.t, err)
	return &client{w: w, boot: w.boot, key: key}
}

// send gives the status, the answer and its headers; every answer must be JSON.
func (c *client) send(method, path string, body any, header ...string) (int, map[string]any, http.Header) {
	c.w.t.Helper()
	var reader io.Reader
	if body != nil {
		text, ok := body.([]byte)
		if !ok {
			var err error
			text, err = json.Marshal(body)
			must(c.w.t, err)
		}
		reader = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(context.Background(), method, c.w.server.URL+path, reader)
	must(c.w.t, err)
	if c.cookie != "" {
		req.AddCookie(&http.Cookie{Name: "kbs-session-id", Value: c.cookie})
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := c.w.server.Client().Do(req)
	must(c.w.t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	must(c.w.t, err)
	var answer map[string]any
	if err := json.Unmarshal(text, &answer); err != nil || resp.Header.Get("Content-Type") != "application/json" {
		c.w.t.Fatalf("%s %s: %d %s is not JSON: %q", method, path, resp.StatusCode, resp.Header.Get("Content-Type"), text)
	}
	if resp.StatusCode != http.StatusOK {
		kind, _ := answer["type"].(string)
		if detail, ok := answer["detail"].(string); !ok || !strings.HasPrefix(kind, "https://github.com/confidential-containers/kbs/errors/") || detail == "" || len(answer) != 2 {
			c.w.t.Errorf("%s %s: %d is no ErrorInformation: %s", method, path, resp.StatusCode, text)
		}
	}
	for _, set := range resp.Cookies() {
		if set.Name == "kbs-session-id" {
			c.cookie = set.Value
		}
	}
	return resp.StatusCode, answer, resp.Header
}

func (c *client) auth() int {
	c.w.t.Helper()
	status, answer, _ := c.send("POST", "/kbs/v0/auth", map[string]any{
		"version": "0.4.0", "tee": "snp", "extra-params": map[string]any{"supported-hash-algorithms": []string{"sha256", "sha384", "sha512", "sm3"}},
	})
	c.nonce, _ = answer["nonce"].(string)
	if extra, ok := answer["extra-params"]; status == http.StatusOK && (!ok || extra != "") {
		c.w.t.Errorf("challenge: %v", answer)
	}
	return status
}

func (c *client) jwk() map[string]any {
	size := (c.key.Params().BitSize + 7) / 8
	name := map[int]string{32: "P-256", 66: "P-521"}[size]
	b64 := func(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
	return map[string]any{
		"kty": "EC", "crv": name, "alg": "ECDH-ES+A256KW",
		"x": b64(c.key.X.FillBytes(make([]byte, size))), "y": b64(c.key.Y.FillBytes(make([]byte, size))),
	}
}

// attestation is the body of /attest.
func (c *client) attestation() map[string]any {
	c.w.t.Helper()
	var data [64]byte
	if c.svsm {
		raw, err := base64.StdEncoding.DecodeString(c.nonce)
		must(c.w.t, err)
		size := (c.key.Params().BitSize + 7) / 8
		data = sha512.Sum512(append(append(c.key.X.FillBytes(make([]byte, size)), c.key.Y.FillBytes(make([]byte, size))...), raw...))
	} else {
		// encoding/json sorts the names of maps, and nothing here needs escaping: that is the canonical form.
		text, err := json.Marshal(map[string]any{"additional-evidence": "", "nonce": c.nonce, "tee-pubkey": c.jwk()})
		must(c.w.t, err)
		sum := sha512.Sum384(text)
		copy(data[:], sum[:])
	}
	report, vcek := c.w.hw.report(c.w.t, data, c.boot)
	evidence := snpJSON(report, vcek)
	if c.svsm {
		evidence = map[string]any{"snp-report": report, "certs-buf": vcek}
	}
	body := map[string]any{
		"init-data":    nil,
		"runtime-data": map[string]any{"nonce": c.nonce, "tee-pubkey": c.jwk()},
		"tee-evidence": map[string]any{"primary_evidence": evidence, "additional_evidence": ""},
	}
	if c.alter != nil {
		c.alter(body)
	}
	return body
}

func (c *client) attest() (int, string) {
	c.w.t.Helper()
	status, answer, _ := c.send("POST", "/kbs/v0/attest", c.attestation())
	token, _ := answer["token"].(string)
	return status, token
}

// get asks for the resource and, on success, opens it with a library that package kbs does not know.
func (c *client) get(path string, header ...string) (int, []byte, map[string]any) {
	c.w.t.Helper()
	status, answer, _ := c.send("GET", path, nil, header...)
	if status != http.StatusOK {
		return status, nil, answer
	}
	text, err := json.Marshal(answer)
	must(c.w.t, err)
	sealed, err := jose.ParseEncryptedJSON(string(text), []jose.KeyAlgorithm{jose.ECDH_ES_A256KW}, []jose.ContentEncryption{jose.A256GCM})
	must(c.w.t, err)
	plain, err := sealed.Decrypt(c.key)
	must(c.w.t, err)
	return status, plain, answer
}

// ready takes a client through the handshake.
func (c *client) ready() string {
	c.w.t.Helper()
	if status := c.auth(); status != http.StatusOK {
		c.w.t.Fatalf("auth: %d", status)
	}
	status, token := c.attest()
	if status != http.StatusOK {
		c.w.t.Fatalf("attest: %d", status)
	}
	return token
}

// snpJSON spells a report out as the stock attester does.
func snpJSON(r, vcek []byte) map[string]any {
	list := func(b []byte) []int {
		out := make([]int, len(b))
		for i, v := range b {
			out[i] = int(v)
		}
		return out
	}
	u32 := func(at int) uint32 { return binary.LittleEndian.Uint32(r[at:]) }
	u64 := func(at int) uint64 { return binary.LittleEndian.Uint64(r[at:]) }
	tcb := func(at int) map[string]any {
		return map[string]any{"fmc": nil, "bootloader": r[at], "tee": r[at+1], "snp": r[at+6], "microcode": r[at+7]}
	}
	build := func(at int) map[string]any { return map[string]any{"build": r[at], "minor": r[at+1], "major": r[at+2]} }
	report := map[string]any{
		"version": u32(0), "guest_svn": u32(4), "policy": u64(8), "family_id": list(r[0x10:0x20]), "image_id": list(r[0x20:0x30]), "vmpl": u32(0x30),
		"sig_algo": u32(0x34), "current_tcb": tcb(0x38), "plat_info": u64(0x40), "key_info": u32(0x48), "report_data": list(r[0x50:0x90]),
		"measurement": list(r[0x90:0xc0]), "host_data": list(r[0xc0:0xe0]), "id_key_digest": list(r[0xe0:0x110]), "author_key_digest": list(r[0x110:0x140]),
		"report_id": list(r[0x140:0x160]), "report_id_ma": list(r[0x160:0x180]), "reported_tcb": tcb(0x180), "chip_id": list(r[0x1a0:0x1e0]),
		"committed_tcb": tcb(0x1e0), "current": build(0x1e8), "committed": build(0x1ec), "launch_tcb": tcb(0x1f0),
		"signature": map[string]any{"r": list(r[0x2a0:0x2e8]), "s": list(r[0x2e8:0x330])},
	}
	if u32(0) >= 3 {
		report["cpuid_fam_id"], report["cpuid_mod_id"], report["cpuid_step"] = r[0x188], r[0x189], r[0x18a]
	}
	return map[string]any{"attestation_report": report, "cert_chain": []map[string]any{{"cert_type": "VCEK", "data": list(vcek)}}}
}
