package api

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/jackc/pgx/v5"

	"github.com/eosc-siesta/siestad/internal/api/gen"
	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/corim"
	"github.com/eosc-siesta/siestad/internal/keybroker"
	"github.com/eosc-siesta/siestad/internal/postgres"
	"github.com/eosc-siesta/siestad/internal/workspace"
)

func init() {
	// For answers that are held against openapi.yaml: bytes are bytes.
	openapi3filter.RegisterBodyDecoder(corim.MediaType, openapi3filter.FileBodyDecoder)
}

func corimKey(t *testing.T) corim.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	parsed, err := corim.ParsePrivateKey(der)
	must(t, err)
	return parsed
}

// registered uploads an image and registers it.
func (r *rig) registered(who person) string {
	r.t.Helper()
	var img gen.Image
	r.want(201, who, "POST", "/v1/images", map[string]any{"name": "desktop"}).into(r.t, &img)
	for _, file := range []string{"kernel", "initrd", "firmware"} {
		r.want(200, who, "PUT", "/v1/images/"+img.ID+"/files/"+file, "the "+file, with("Content-Type", "application/octet-stream"))
	}
	r.want(200, who, "POST", "/v1/images/"+img.ID+"/register", nil)
	return img.ID
}

func TestEndorsementsOverTheWire(t *testing.T) {
	t.Parallel()
	vendor, stranger := corimKey(t), corimKey(t)
	r := newRigWith(t, setup{endorsers: []corim.PublicKey{vendor.Public()}})
	op, cus, aud, ann, nobody := r.person("op", "operator"), r.person("cus", "custodian"), r.person("aud", "auditor"), r.person("ann", "researcher"), r.person("new")
	id := r.registered(op)
	sum := sha256.Sum256([]byte("the firmware"))
	document := func(key corim.PrivateKey, name string) map[string]any {
		body, err := corim.Sign(corim.Document{ID: name, NotAfter: time.Date(2199, 1, 1, 0, 0, 0, 0, time.UTC), Tags: []corim.Tag{{ID: "files", Values: []corim.Value{{
			Environment: corim.Environment{Vendor: "ACME", Model: "OVMF"}, Digests: []corim.Digest{{Algorithm: corim.SHA256, Value: sum[:]}},
		}}}}}, "ACME", key)
		must(t, err)
		return map[string]any{"document": body}
	}

	// Who may not, and whose documents may not. Both are in the log.
	good := document(vendor, "acme/1")
	for _, who := range []person{cus, aud, ann} {
		r.want(403, who, "POST", "/v1/endorsements", good)
	}
	if n := r.audited("endorsement.import", audit.Refused, "policy"); n != 3 {
		t.Errorf("%d denials in the log", n)
	}
	for _, bad := range []map[string]any{document(stranger, "acme/1"), {"document": []byte{0xd9, 0x01, 0xf5, 0xa0}}} {
		if p := r.want(422, op, "POST", "/v1/endorsements", bad).problem(t); p.Type != problemType+"invalid" {
			t.Errorf("%+v", p)
		}
	}
	if n := r.audited("endorsement.import", audit.Refused, "document"); n != 2 {
		t.Errorf("%d refused documents in the log", n)
	}
	r.want(400, op, "POST", "/v1/endorsements", map[string]any{"document": "%%"})
	r.want(413, op, "POST", "/v1/endorsements", map[string]any{"document": make([]byte, maxBody)})

	var e, again gen.Endorsement
	key := with("Idempotency-Key", "endorsement-once")
	created := r.want(201, op, "POST", "/v1/endorsements", good, key)
	created.into(t, &e)
	r.want(201, op, "POST", "/v1/endorsements", good, key).into(t, &again)
	if e.ID != again.ID || e.CorimID != "acme/1" || e.SignerKey != vendor.Public().ID() || e.ImportedBy != op.subject || created.header.Get("Location") != "/v1/endorsements/"+e.ID {
		t.Errorf("%+v", e)
	}
	r.want(409, op, "POST", "/v1/endorsements", good)
	r.want(201, op, "POST", "/v1/endorsements", document(vendor, "acme/2"))

	r.want(200, ann, "GET", "/v1/endorsements/"+e.ID, nil).into(t, &again)
	if again.Document == nil || !bytes.Equal(*again.Document, good["document"].([]byte)) {
		t.Error("the document comes back as another")
	}
	r.want(404, nobody, "GET", "/v1/endorsements/"+e.ID, nil)
	r.want(404, ann, "GET", "/v1/endorsements/"+anyULID, nil)
	var page gen.EndorsementPage
	r.want(200, aud, "GET", "/v1/endorsements?limit=1", nil).into(t, &page)
	if len(page.Items) != 1 || page.Items[0].CorimID != "acme/2" || page.Next == nil {
		t.Fatalf("%+v", page)
	}
	r.want(200, aud, "GET", "/v1/endorsements?limit=1&cursor="+*page.Next, nil).into(t, &page)
	if len(page.Items) != 1 || page.Items[0].ID != e.ID {
		t.Errorf("%+v", page)
	}
	r.want(403, nobody, "GET", "/v1/endorsements", nil)

	var of gen.ImageEndorsementList
	r.want(200, cus, "GET", "/v1/images/"+id+"/endorsements", nil).into(t, &of)
	if len(of.Items) != 2 || of.Items[0].File != "firmware" || of.Items[0].Subject != "ACME OVMF" || of.Items[1].Endorsement != e.ID || of.LeftOut != 0 {
		t.Errorf("%+v", of)
	}
	r.want(404, cus, "GET", "/v1/images/"+anyULID+"/endorsements", nil)
	// It is still a person who approves.
	var img gen.Image
	r.want(200, cus, "GET", "/v1/images/"+id, nil).into(t, &img)
	if img.State != "registered" {
		t.Errorf("after two documents the image is %s", img.State)
	}
	r.want(200, cus, "POST", "/v1/images/"+id+"/approve", nil)
}

func TestReferenceValuesOverTheWire(t *testing.T) {
	t.Parallel()
	key := corimKey(t)
	r := newRigWith(t, setup{publisher: Publisher{Name: "siesta.example.org/log", Build: "siestad v1", Key: key}})
	op, cus, ann, eve := r.person("op", "operator"), r.person("cus", "custodian"), r.person("ann", "researcher"), r.person("eve", "researcher")
	id := r.registered(op)
	r.want(409, op, "GET", "/v1/images/"+id+"/reference-values", nil)
	r.want(200, cus, "POST", "/v1/images/"+id+"/approve", nil)
	read := func(who person, path string) corim.Document {
		t.Helper()
		a := r.want(200, who, "GET", path, nil)
		if a.header.Get("Content-Type") != corim.MediaType {
			t.Errorf("Content-Type %s", a.header.Get("Content-Type"))
		}
		signed, err := corim.Verify(a.body, []corim.PublicKey{key.Public()}, start)
		must(t, err)
		if signed.Signer != "siesta.example.org/log" || signed.Document.Author != "siestad v1" || !signed.Until().Equal(start.Add(referenceLife)) {
			t.Errorf("%+v", signed)
		}
		if _, err := corim.Verify(a.body, []corim.PublicKey{key.Public()}, start.Add(referenceLife+time.Second)); !errors.Is(err, corim.ErrInvalid) {
			t.Errorf("good for ever: %v", err)
		}
		return signed.Document
	}
	d := read(ann, "/v1/images/"+id+"/reference-values")
	sum := sha256.Sum256([]byte("the initrd"))
	if v := d.Tags[0].Values; d.ID != "siesta.example.org/log/image/"+id || d.Profile != "" || len(v) != 3 || v[1].Key.Text != "initrd" || !bytes.Equal(v[1].Digests[0].Value, sum[:]) {
		t.Errorf("%+v", d)
	}
	r.want(404, ann, "GET", "/v1/images/"+anyULID+"/reference-values", nil)

	r.project("epi", ann.subject)
	var operation gen.Operation
	r.want(202, ann, "POST", "/v1/workspaces", workspaceBody("epi", id)).into(t, &operation)
	path := "/v1/workspaces/" + operation.Workspace + "/reference-values"
	refused := func(why string) {
		t.Helper()
		if p := r.want(409, ann, "GET", path, nil).problem(t); !strings.Contains(p.Detail, why) {
			t.Errorf("%+v, want one with %q", p, why)
		}
	}
	refused("no guest of it is armed") // nothing is measured yet
	// The workspace asks for two measurements, of which a document leaves one.
	measured, other := strings.Repeat("ab", 48), strings.Repeat("cd", 48)
	w := r.workspaces.all[operation.Workspace]
	w.Line, w.Measurements = "console=ttyS0 siesta.ws="+w.ID, []string{measured, other}
	set := func(change func(*workspace.Workspace)) {
		w := w
		change(&w)
		r.workspaces.mu.Lock()
		defer r.workspaces.mu.Unlock()
		r.workspaces.all[w.ID] = w
	}
	set(func(*workspace.Workspace) {})
	refused("no guest of it is armed")
	_, err := r.broker.Prepare(t.Context(), keybroker.Volume{Workspace: w.ID, Project: "epi", Site: "ifca", SecretName: "key-" + w.ID})
	must(t, err)
	tx := func(fn func(tx pgx.Tx) error) {
		t.Helper()
		must(t, postgres.InTx(t.Context(), r.db, fn))
	}
	r.broker.Policies = leavesFirst{}
	tx(func(tx pgx.Tx) error {
		asked := attest.Policy{Products: []string{attest.Genoa}, Chips: [][]byte{make([]byte, 64)}, Measurements: [][]byte{bytes.Repeat([]byte{0xab}, 48), bytes.Repeat([]byte{0xcd}, 48)}}
		return r.broker.Arm(t.Context(), tx, keybroker.Arm{
			Workspace: w.ID, Project: "epi", Dataset: "d", Owner: ann.subject, Image: id, Site: "ifca", Generation: 1, VolumeID: "v", VolumeSerial: "v", Policy: asked,
		})
	})
	d = read(ann, path)
	if d.ID != "siesta.example.org/log/workspace/"+w.ID+"/1" || d.Profile != corim.ProfileSNP || len(d.Tags) != 2 || d.Tags[0].Author != "siestad v1, launch digest 1" {
		t.Fatalf("%+v", d)
	}
	launch, files := d.Tags[0].Values, d.Tags[1].Values
	if len(launch) != 1 || launch[0].Subject() != "1.3.6.1.4.1.3704.3.1, 641" || launch[0].Digests[0].Algorithm != corim.SHA384 || hex.EncodeToString(launch[0].Digests[0].Value) != measured {
		t.Errorf("%+v", launch)
	}
	if len(files) != 4 || files[3].Key.Text != "command-line" || string(files[3].Raw) != w.Line {
		t.Errorf("%+v", files)
	}
	r.want(200, op, "GET", path, nil)
	r.want(404, eve, "GET", path, nil)
	if n := r.audited("workspace.get", audit.Refused, "hidden"); n != 1 {
		t.Errorf("%d denials in the log", n)
	}
	set(func(w *workspace.Workspace) { w.Simulated = true })
	refused("simulated")
	set(func(w *workspace.Workspace) { w.Generation++ })
	refused("no guest of it is armed")
	set(func(*workspace.Workspace) {})

	// What gets no key has no reference values. The broker says what does, whatever the workspace's row still holds.
	tx(func(tx pgx.Tx) error { return r.broker.Unarm(t.Context(), tx, w.ID, 1, true, "nobody booted") })
	refused("its generation is suspended")
	tx(func(tx pgx.Tx) error {
		_, err := r.broker.AllowReboot(t.Context(), tx, audit.Actor{Kind: audit.Person, Subject: op.subject}, w.ID)
		return err
	})
	read(ann, path)
	r.want(200, cus, "POST", "/v1/images/"+id+"/withdraw", nil)
	refused("withdrawn")
	for _, gone := range [][2]string{
		{`UPDATE broker_volume SET state = 'shredding', shredded_at = now()`, `UPDATE broker_volume SET state = 'open', shredded_at = NULL`},
		{`UPDATE broker_key SET state = 'prepared'`, `UPDATE broker_key SET state = 'active'`},
	} {
		_, err := r.db.Exec(t.Context(), gone[0])
		must(t, err)
		refused("no guest of it is armed")
		_, err = r.db.Exec(t.Context(), gone[1])
		must(t, err)
		refused("withdrawn")
	}
	r.want(409, ann, "GET", "/v1/images/"+id+"/reference-values", nil)
	tx(func(tx pgx.Tx) error { return r.broker.Disarm(t.Context(), tx, w.ID) }) // as when a creation is unwound
	set(func(w *workspace.Workspace) { w.State = workspace.Failed })
	refused("no guest of it is armed")
	must(t, r.broker.Shred(t.Context(), w.ID))
	refused("no guest of it is armed")
}

// leavesFirst is a document under which the first of the measurements that are asked for is left.
type leavesFirst struct{ keybroker.Policies }

func (leavesFirst) Narrow(_ context.Context, _ pgx.Tx, _, _ string, asked attest.Policy) (attest.Policy, error) {
	asked.Measurements = asked.Measurements[:1]
	return asked, nil
}

func TestWithoutAKeyNothingIsPublished(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	op := r.person("op", "operator")
	id := r.registered(op)
	r.want(200, r.person("cus", "custodian"), "POST", "/v1/images/"+id+"/approve", nil)
	if p := r.want(409, op, "GET", "/v1/images/"+id+"/reference-values", nil).problem(t); !strings.Contains(p.Detail, "no key") {
		t.Errorf("%+v", p)
	}
}
