package api

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/keybroker"
	"github.com/eosc-siesta/siestad/internal/postgres"
)

// The handshake as a stock client makes it: a GET that is told to begin, then auth, attest, GET.
func TestKBSHandshake(t *testing.T) {
	w := newPlainWorld(t)
	c := w.client()
	if status, _, answer := c.get(kbsPath); status != 401 || !strings.HasSuffix(answer["type"].(string), "/TokenNotFound") {
		t.Fatalf("a GET without a session: %d %v", status, answer)
	}
	token := c.ready()
	if len(strings.Split(token, ".")) != 3 {
		t.Errorf("token %q", token)
	}
	status, secret, _ := c.get(kbsPath)
	if status != 200 || !bytes.Equal(secret, kbsPayload) {
		t.Fatalf("the secret: %d %q", status, secret)
	}
	if status, secret, _ = c.get("/kbs/v0/resource//default/sample/test"); status != 200 || !bytes.Equal(secret, kbsPayload) {
		t.Errorf("with slashes in a row: %d %q", status, secret)
	}
	if n := w.audited("secret.release", audit.Success, ""); n != 2 {
		t.Errorf("%d entries about two releases", n)
	}
	if n := w.audited("guest.attest", audit.Success, ""); n != 1 {
		t.Errorf("%d entries about one attestation", n)
	}
	if n := w.count(`SELECT count(*) FROM broker_decision WHERE purpose = 'secret' AND outcome = 'released' AND secret = $1 AND lease = $2`, w.secret.ID, w.lease); n != 2 {
		t.Errorf("%d decisions", n)
	}
}

func TestKBSTokenIsVerifiable(t *testing.T) {
	w := newPlainWorld(t)
	c := w.client()
	token := c.ready()
	set := w.want(200, person{}, "GET", "/v1/jwks", nil)
	var keys struct {
		Keys []struct{ Kty, Crv, Alg, Kid, Use, D string }
	}
	set.into(t, &keys)
	if len(keys.Keys) != 1 || keys.Keys[0].Alg != "ES256" || keys.Keys[0].D != "" {
		t.Errorf("key set: %s", set.body)
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	must(t, err)
	var claims struct {
		Nonce   string `json:"eat_nonce"`
		ID      string `json:"jti"`
		Exp     int64  `json:"exp"`
		Submods struct {
			CPU struct {
				Evidence struct {
					Runtime struct {
						Key map[string]any `json:"tee-pubkey"`
					} `json:"runtime_data_claims"`
				} `json:"ear.veraison.annotated-evidence"`
			} `json:"cpu0"`
		} `json:"submods"`
	}
	must(t, json.Unmarshal(payload, &claims))
	if claims.Nonce != c.nonce || claims.Submods.CPU.Evidence.Runtime.Key["x"] != c.jwk()["x"] {
		t.Errorf("claims: %s", payload)
	}
	if n := w.count(`SELECT count(*) FROM broker_decision WHERE id = $1 AND outcome = 'attested'`, claims.ID); n != 1 {
		t.Error("the token names no decision")
	}
}

func TestKBSP521AndSVSM(t *testing.T) {
	w := newPlainWorld(t)
	for _, svsm := range []bool{false, true} {
		c := w.client()
		var err error
		c.key, err = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
		must(t, err)
		c.svsm = svsm
		c.ready()
		if status, secret, _ := c.get(kbsPath); status != 200 || !bytes.Equal(secret, kbsPayload) {
			t.Errorf("SVSM %t: %d %q", svsm, status, secret)
		}
	}
}

// Every fact that a volume's key needs holds a secret back, and each refusal is a decision of its own.
func TestKBSRefusalOfEachFact(t *testing.T) {
	for name, row := range map[string]struct {
		code string
		do   func(w *world)
	}{
		"permit ended":     {keybroker.CodePermit, func(w *world) { w.exec(`UPDATE permit SET state = 'ended', ended_by = 'x'`) }},
		"permit run out":   {keybroker.CodePermit, func(w *world) { w.exec(`UPDATE permit SET until = now() - interval '1 second'`) }},
		"person not in it": {keybroker.CodePermit, func(w *world) { w.exec(`UPDATE permit SET people = ARRAY['https://issuer|bob']`) }},
		"project closed":   {keybroker.CodeProject, func(w *world) { w.exec(`UPDATE project SET state = 'closed'`) }},
		"project run out":  {keybroker.CodeProject, func(w *world) { w.exec(`UPDATE project SET valid_until = now() - interval '1 day'`) }},
		"owner removed": {keybroker.CodeProject, func(w *world) {
			w.want(200, w.person("op", "operator"), "PUT", "/v1/projects/study/members", map[string]any{"members": []string{"https://issuer|bob"}})
		}},
		"image withdrawn":     {keybroker.CodeImage, func(w *world) { w.exec(`UPDATE image SET state = 'withdrawn', withdrawn_by = 'x'`) }},
		"freeze on person":    {keybroker.CodeFreeze, func(w *world) { w.freeze("person", "https://issuer|alice") }},
		"freeze on project":   {keybroker.CodeFreeze, func(w *world) { w.freeze("project", "study") }},
		"freeze on dataset":   {keybroker.CodeFreeze, func(w *world) { w.freeze("dataset", "cohort-v1") }},
		"freeze on image":     {keybroker.CodeFreeze, func(w *world) { w.freeze("image", "01jimage") }},
		"freeze on site":      {keybroker.CodeFreeze, func(w *world) { w.freeze("site", "ifca") }},
		"freeze on chip":      {keybroker.CodeFreeze, func(w *world) { w.freeze("chip", strings.Repeat("00", 64)) }},
		"suspended":           {keybroker.CodeSuspended, func(w *world) { w.exec(`UPDATE broker_arm SET state = 'suspended'`) }},
		"disarmed":            {keybroker.CodeGeneration, func(w *world) { w.exec(`UPDATE broker_arm SET state = 'disarmed'`) }},
		"armed once more":     {keybroker.CodeGeneration, func(w *world) { w.exec(`UPDATE broker_arm SET state = 'armed', epoch = epoch + 1, report_id = NULL`) }},
		"key shredded":        {keybroker.CodeWorkspace, func(w *world) { w.exec(`UPDATE broker_key SET state = 'destroyed', kek = NULL`) }},
		"lease ended":         {keybroker.CodeLease, func(w *world) { w.exec(`UPDATE broker_lease SET state = 'ended', ended_why = 'x'`) }},
		"lease run out":       {keybroker.CodeLease, func(w *world) { w.exec(`UPDATE broker_lease SET until = now() - interval '1 second'`) }},
		"lease of a stranger": {keybroker.CodeLease, func(w *world) { w.exec(`UPDATE broker_lease SET report_id = $1`, make([]byte, 32)) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newPlainWorld(t)
			c := w.client()
			token := c.ready()
			row.do(w)
			status, _, answer := c.get(kbsPath)
			detail := answer["detail"].(string)
			if status != http.StatusForbidden || !strings.Contains(answer["type"].(string), "PolicyDeny") {
				t.Fatalf("%d %v", status, answer)
			}
			id := detail[strings.LastIndexByte(detail, ' ')+1:]
			if n := w.count(`SELECT count(*) FROM broker_decision WHERE id = $1 AND outcome = 'refused' AND code = $2 AND purpose = 'secret' AND lease IS NULL`, id, row.code); n != 1 {
				t.Errorf("no decision %s with code %s", id, row.code)
			}
			if n := w.audited("secret.release", audit.Refused, row.code); n != 1 {
				t.Errorf("%d audit entries", n)
			}
			for _, word := range []string{"permit", "project", "image", "freeze", "lease", "suspend", "generation", "shred"} {
				if strings.Contains(strings.ToLower(detail), word) {
					t.Errorf("the guest is told %q", detail)
				}
			}
			c.cookie = ""
			if status, _, _ := c.get(kbsPath, "Authorization", "Bearer "+token); status != http.StatusForbidden {
				t.Errorf("with the token alone: %d", status)
			}
		})
	}
}

func (w *world) freeze(kind, value string) {
	w.exec(`INSERT INTO freeze_order (id, kind, value, reason, state, placed_by) VALUES ($1, $2, $3, 'r', 'live', 'x')`, "f-"+kind, kind, value)
}

// A second genuine boot of the generation gets nothing, and is what it is at the native door: reason to suspend.
func TestKBSSecondBoot(t *testing.T) {
	w := newPlainWorld(t)
	c := w.client()
	c.boot = [32]byte{1}
	c.ready() // it is genuine
	if status, _, _ := c.get(kbsPath); status != http.StatusForbidden {
		t.Fatalf("a clone: %d", status)
	}
	if n := w.count(`SELECT count(*) FROM broker_arm WHERE state = 'suspended'`); n != 1 {
		t.Error("the generation is not suspended")
	}
	first := w.client()
	first.auth()
	if status, _ := first.attest(); status != http.StatusForbidden {
		t.Errorf("the first guest of a suspended generation: %d", status)
	}
}

func TestKBSWhatIsThereForWhom(t *testing.T) {
	w := newPlainWorld(t)
	w.exec(`INSERT INTO dataset (id, title, version, custodian) VALUES ('other-v1', 'Other', '1', 'https://issuer|carol')`)
	w.exec(`INSERT INTO project (id, name, state, valid_until) VALUES ('elsewhere', 'E', 'active', now() + interval '1 year')`)
	w.put("cohort-v1", "default/sample/mine")
	w.put("other-v1", "default/sample/others")
	ended := w.put("", "default/sample/ended")
	must(t, postgres.InTx(context.Background(), w.db, func(tx pgx.Tx) error {
		_, _, err := w.broker.EndSecret(context.Background(), tx, audit.Actor{Kind: audit.Person, Subject: "x"}, ended.ID)
		return err
	}))
	foreign := w.put("", "default/sample/foreign")
	w.exec(`UPDATE broker_secret SET project = 'elsewhere' WHERE id = $1`, foreign.ID)
	c := w.client()
	c.ready()
	if status, secret, _ := c.get("/kbs/v0/resource/default/sample/mine"); status != 200 || !bytes.Equal(secret, kbsPayload) {
		t.Errorf("of the workspace's dataset: %d", status)
	}
	var told string
	for _, tag := range []string{"nope", "others", "ended", "foreign"} {
		status, _, answer := c.get("/kbs/v0/resource/default/sample/" + tag)
		if status != http.StatusNotFound {
			t.Errorf("%s: %d", tag, status)
		}
		if told == "" {
			told = answer["detail"].(string)
		}
		if answer["detail"] != told {
			t.Errorf("%s: %v, want %s", tag, answer, told)
		}
	}
	if n := w.audited("secret.release", audit.Refused, keybroker.CodeSecret); n != 4 {
		t.Errorf("%d entries about what was not there", n)
	}
}
