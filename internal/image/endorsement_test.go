package image_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jackc/pgx/v5"

	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/audit/audittest"
	"github.com/eosc-siesta/siestad/internal/corim"
	"github.com/eosc-siesta/siestad/internal/image"
	"github.com/eosc-siesta/siestad/internal/postgres/pgtest"
)

func endorser(t *testing.T) corim.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := corim.ParsePrivateKey(der)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

func newRigOf(t *testing.T, endorsers ...corim.PublicKey) rig {
	db := pgtest.New(t)
	return rig{t, db, image.New(db, audittest.Recorder(t), endorsers...)}
}

func vendorDocument(digests ...corim.Digest) corim.Document {
	d := corim.Document{ID: "acme/1", NotAfter: time.Date(2199, 1, 1, 0, 0, 0, 0, time.UTC), Tags: []corim.Tag{{ID: "files"}}}
	for _, digest := range digests {
		d.Tags[0].Values = append(d.Tags[0].Values, corim.Value{
			Environment: corim.Environment{Vendor: "ACME", Model: "OVMF"}, Key: corim.Key{Text: "firmware"}, Version: "7", Digests: []corim.Digest{digest},
		})
	}
	return d
}

func sum256(content string) corim.Digest {
	h := sha256.Sum256([]byte(content))
	return corim.Digest{Algorithm: corim.SHA256, Value: h[:]}
}

func sum512(content string) corim.Digest {
	h := sha512.Sum512([]byte(content))
	return corim.Digest{Algorithm: corim.SHA512, Value: h[:]}
}

func signedBy(t *testing.T, d corim.Document, key corim.PrivateKey) []byte {
	t.Helper()
	body, err := corim.Sign(d, "ACME", key)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func (r rig) imported(who audit.Actor, body []byte) (e image.Endorsement, err error) {
	err = r.try(func(tx pgx.Tx) (err error) { e, _, err = r.Import(r.t.Context(), tx, who, body); return err })
	return e, err
}

func (r rig) count(sql string, args ...any) (n int) {
	r.t.Helper()
	if err := r.db.QueryRow(r.t.Context(), sql, args...).Scan(&n); err != nil {
		r.t.Fatal(err)
	}
	return n
}

func TestADocumentSupportsAnApprovalAndMakesNone(t *testing.T) {
	key := endorser(t)
	r := newRigOf(t, endorser(t).Public(), key.Public())
	img := r.draft()
	if err := r.register(olga, img.ID); err != nil {
		t.Fatal(err)
	}
	if list, more, err := r.Endorsed(t.Context(), img.ID); err != nil || len(list) != 0 || more != 0 {
		t.Errorf("endorsed before anything was imported: %v and %d more, %v", list, more, err)
	}
	d := vendorDocument(sum256("the kernel"), sum512("the firmware"), sum256("something else"))
	body := signedBy(t, d, key)
	e, err := r.imported(oscar, body)
	if err != nil {
		t.Fatal(err)
	}
	if e.Digests != 3 || e.SignerKey != key.Public().ID() || e.CorimID != d.ID || e.Signer != "ACME" || e.ImportedBy != oscar.Subject || !e.NotAfter.Equal(d.NotAfter) {
		t.Errorf("%+v", e)
	}
	if n := r.count(`SELECT count(*) FROM audit_inbox WHERE action = 'endorsement.import'`); n != 1 {
		t.Errorf("%d entries of an import", n)
	}

	list, more, err := r.Endorsed(t.Context(), img.ID)
	if err != nil || more != 0 {
		t.Fatal(more, err)
	}
	common := image.Endorsed{Subject: "ACME OVMF, firmware, 7", Endorsement: e.ID, CorimID: d.ID, Signer: "ACME", SignerKey: e.SignerKey, NotAfter: e.NotAfter}
	firmware, kernel := common, common
	firmware.File, kernel.File = image.Firmware, image.Kernel
	if diff := cmp.Diff([]image.Endorsed{firmware, kernel}, list, cmpopts.EquateApproxTime(0)); diff != "" {
		t.Error(diff)
	}
	if got, err := r.Image(t.Context(), img.ID); err != nil || got.State != image.Registered {
		t.Errorf("after an import the image is %s, %v", got.State, err)
	}
	if got, stored, err := r.Endorsement(t.Context(), e.ID); err != nil || string(stored) != string(body) || got.ID != e.ID {
		t.Errorf("the document cannot be had back: %v", err)
	}

	if err := r.approve(carlo, img.ID); err != nil {
		t.Fatal(err)
	}
	if n := r.count(`SELECT count(*) FROM audit_inbox WHERE action = 'image.approve'
		AND convert_from(body, 'UTF8')::json -> 'details' -> 'kernel_endorsed_by' ->> 0 = $1
		AND convert_from(body, 'UTF8')::json -> 'details' -> 'initrd_endorsed_by' IS NULL`, e.ID); n != 1 {
		t.Error("the approval does not say which document was known")
	}
	if all, err := r.Endorsements(t.Context(), "", 10); err != nil || len(all) != 1 {
		t.Errorf("%v, %v", all, err)
	}
}

func TestWhatIsNotImported(t *testing.T) {
	key, stranger := endorser(t), endorser(t)
	r := newRigOf(t, key.Public())
	good := vendorDocument(sum256("the kernel"))
	ended := good
	ended.NotAfter = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	launch := vendorDocument(corim.Digest{Algorithm: corim.SHA384, Value: make([]byte, 48)})
	signed := signedBy(t, good, key)
	changed := append([]byte{}, signed...)
	changed[len(changed)-1] ^= 1
	for name, c := range map[string]struct {
		who  audit.Actor
		body []byte
		want error
		why  string
	}{
		"by a stranger":   {olga, signedBy(t, good, stranger), corim.ErrInvalid, "none of the given keys"},
		"signature wrong": {olga, changed, corim.ErrInvalid, "none of the given keys"},
		"unsigned":        {olga, []byte{0xd9, 0x01, 0xf5, 0xa0}, corim.ErrInvalid, "not signed"},
		"ended":           {olga, signedBy(t, ended, key), corim.ErrInvalid, "not good after"},
		"of no file":      {olga, signedBy(t, launch, key), image.ErrInvalid, "importing a document: it names no SHA-256 or SHA-512 digest, so no file"},
		"nothing":         {olga, nil, corim.ErrInvalid, ""},
		"by nobody":       {audit.Actor{}, signed, image.ErrInvalid, "importing a document: it is imported by somebody"},
	} {
		if _, err := r.imported(c.who, c.body); !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.why) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := r.count(`SELECT count(*) FROM endorsement`); n != 0 {
		t.Errorf("%d documents are stored", n)
	}
	if _, err := r.imported(olga, signed); err != nil {
		t.Fatal(err)
	}
	if _, err := r.imported(olga, signed); !errors.Is(err, image.ErrState) {
		t.Errorf("the same document twice: %v", err)
	}
	none := rig{t, r.db, image.New(r.db, audittest.Recorder(t))}
	if _, err := none.imported(olga, signedBy(t, good, stranger)); !errors.Is(err, corim.ErrInvalid) {
		t.Errorf("without configured keys: %v", err)
	}
}

// A document counts as long as its time lasts and its key is trusted.
func TestWhatNoLongerCounts(t *testing.T) {
	key := endorser(t)
	r := newRigOf(t, key.Public())
	img := r.draft()
	if _, err := r.imported(olga, signedBy(t, vendorDocument(sum256("the kernel")), key)); err != nil {
		t.Fatal(err)
	}
	count := func(r rig) int {
		t.Helper()
		list, _, err := r.Endorsed(t.Context(), img.ID)
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	if n := count(r); n != 1 {
		t.Fatalf("%d endorsements", n)
	}
	for _, endorsers := range [][]corim.PublicKey{nil, {endorser(t).Public()}, {{}}} {
		if n := count(rig{t, r.db, image.New(r.db, audittest.Recorder(t), endorsers...)}); n != 0 {
			t.Errorf("%d endorsements count without their key", n)
		}
	}
	// One whose time is over.
	if _, err := r.db.Exec(t.Context(), `INSERT INTO endorsement (id, statement, sha256, body, corim_id, signer, signer_key, digests, not_after, imported_by)
		VALUES ('old', sha256('y'), sha256('x'), 'x', 'acme/0', 'ACME', $1, 1, '2020-01-01', 'olga')`, key.Public().ID()); err != nil {
		t.Fatal(err)
	}
	if _, err := r.db.Exec(t.Context(), `INSERT INTO endorsed_value SELECT 'old', sha256, sha512, subject FROM endorsed_value`); err != nil {
		t.Fatal(err)
	}
	if n := count(r); n != 1 {
		t.Errorf("%d endorsements count, one of which has ended", n)
	}
}

// padded is the same signature with bytes in the unprotected header that nobody signed.
func padded(t *testing.T, body []byte) []byte {
	t.Helper()
	// Tag 18 on an array of four, whose first member is a byte string with a length of one byte; an empty map follows.
	at := 4 + int(body[3])
	if !bytes.HasPrefix(body, []byte{0xd2, 0x84, 0x58}) || body[at] != 0xa0 {
		t.Fatalf("the body begins with %x", body[:at+1])
	}
	return slices.Concat(body[:at], []byte{0xa1, 0x18, 0x21, 0x41, 'x'}, body[at+1:])
}

// One signature fills no table: what is around it can be changed by anybody, and makes no other document.
func TestAStatementIsImportedOnce(t *testing.T) {
	key, other := endorser(t), endorser(t)
	r := newRigOf(t, key.Public(), other.Public())
	body := signedBy(t, vendorDocument(sum256("the kernel")), key)
	e, err := r.imported(olga, body)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.imported(olga, padded(t, body)); !errors.Is(err, image.ErrState) {
		t.Errorf("one statement in two forms: %v", err)
	}
	if _, stored, err := r.Endorsement(t.Context(), e.ID); err != nil || !bytes.Equal(stored, body) {
		t.Errorf("not as it first came: %v", err)
	}
	if _, err := r.imported(olga, signedBy(t, vendorDocument(sum256("the kernel")), other)); err != nil {
		t.Errorf("the same words of another key: %v", err)
	}
}

// Digests of one value are one thing under different algorithms: a file that has one of them and not the other is another.
func TestDigestsOfOneValueAgree(t *testing.T) {
	key := endorser(t)
	r := newRigOf(t, key.Public())
	img := r.draft()
	kernel256, kernel512 := sum256("the kernel"), sum512("the kernel")
	sha384 := corim.Digest{Algorithm: corim.SHA384, Value: make([]byte, 48)}
	for name, c := range map[string]struct {
		digests []corim.Digest
		good    bool
	}{
		"both":                   {[]corim.Digest{kernel256, kernel512}, true},
		"with one not kept here": {[]corim.Digest{kernel512, sha384}, true},
		"second of another":      {[]corim.Digest{kernel256, sum512("something else")}, false},
		"first of another":       {[]corim.Digest{sum256("something else"), kernel512}, false},
		"of two files":           {[]corim.Digest{kernel256, sum512("the firmware")}, false},
	} {
		d := vendorDocument(c.digests[0])
		d.ID, d.Tags[0].Values[0].Digests = name, c.digests
		e, err := r.imported(olga, signedBy(t, d, key))
		if err != nil {
			t.Fatal(err)
		}
		list, _, err := r.Endorsed(t.Context(), img.ID)
		if err != nil {
			t.Fatal(err)
		}
		if got := slices.ContainsFunc(list, func(l image.Endorsed) bool { return l.Endorsement == e.ID }); got != c.good {
			t.Errorf("%s: endorsed is %v", name, got)
		}
	}
}

// However much is said of one file, the others' documents are shown and stand in the entry of an approval, and so does every
// document of a file before a second line of any.
func TestNoFileHidesAnother(t *testing.T) {
	key := endorser(t)
	r := newRigOf(t, key.Public())
	img := r.draft()
	if err := r.register(olga, img.ID); err != nil {
		t.Fatal(err)
	}
	const per = 100
	wordy := vendorDocument()
	for i := range 2 * per {
		wordy.Tags[0].Values = append(wordy.Tags[0].Values, corim.Value{
			Environment: corim.Environment{Vendor: "ACME", Model: fmt.Sprintf("m%03d", i)}, Digests: []corim.Digest{sum256("the firmware")},
		})
	}
	wordy.Tags[0].Values = append(wordy.Tags[0].Values, vendorDocument(sum256("the initrd")).Tags[0].Values...)
	plain, err := r.imported(olga, signedBy(t, vendorDocument(sum256("the firmware"), sum256("the kernel")), key))
	if err != nil {
		t.Fatal(err)
	}
	last, err := r.imported(olga, signedBy(t, wordy, key))
	if err != nil {
		t.Fatal(err)
	}
	// As many documents again as have a place, all of them of the kernel.
	if _, err := r.db.Exec(t.Context(), `INSERT INTO endorsement (id, statement, sha256, body, corim_id, signer, signer_key, digests, imported_by)
		SELECT 'many' || n, sha256(n::text::bytea), sha256(n::text::bytea), n::text::bytea, 'acme/' || n, 'ACME', $1, 1, 'olga' FROM generate_series(1, $2) n`, plain.SignerKey, per); err != nil {
		t.Fatal(err)
	}
	if _, err := r.db.Exec(t.Context(), `INSERT INTO endorsed_value SELECT 'many' || n, sha256('the kernel'), NULL, 'a kernel' FROM generate_series(1, $1) n`, per); err != nil {
		t.Fatal(err)
	}
	list, more, err := r.Endorsed(t.Context(), img.ID)
	if err != nil {
		t.Fatal(err)
	}
	lines, first := map[image.Kind]int{}, map[image.Kind][]string{}
	for _, e := range list {
		if lines[e.File]++; lines[e.File] <= 2 {
			first[e.File] = append(first[e.File], e.Endorsement)
		}
	}
	if want := (map[image.Kind]int{image.Firmware: per, image.Initrd: 1, image.Kernel: per}); !maps.Equal(lines, want) || more != per+1+1 {
		t.Errorf("%v and %d more", lines, more)
	}
	if diff := cmp.Diff([]string{last.ID, plain.ID}, first[image.Firmware]); diff != "" {
		t.Error(diff)
	}

	if err := r.approve(carlo, img.ID); err != nil {
		t.Fatal(err)
	}
	var body []byte
	if err := r.db.QueryRow(t.Context(), `SELECT body FROM audit_inbox WHERE action = 'image.approve'`).Scan(&body); err != nil {
		t.Fatal(err)
	}
	var entry struct {
		Details struct {
			Firmware  []string `json:"firmware_endorsed_by"`
			Initrd    []string `json:"initrd_endorsed_by"`
			Kernel    []string `json:"kernel_endorsed_by"`
			Firmwares int      `json:"firmware_endorsements"`
			Kernels   int      `json:"kernel_endorsements"`
		} `json:"details"`
	}
	if err := json.Unmarshal(body, &entry); err != nil {
		t.Fatal(err)
	}
	d := entry.Details
	if !slices.Equal(d.Firmware, []string{last.ID, plain.ID}) || d.Firmwares != 2 || !slices.Equal(d.Initrd, []string{last.ID}) || len(d.Kernel) != per || d.Kernels != per+1 {
		t.Errorf("the approval says %+v", d)
	}
}

func TestEndorsementsAreAppendOnly(t *testing.T) {
	key := endorser(t)
	r := newRigOf(t, key.Public())
	if _, err := r.imported(olga, signedBy(t, vendorDocument(sum256("the kernel")), key)); err != nil {
		t.Fatal(err)
	}
	for _, table := range []string{"endorsement", "endorsed_value"} {
		for _, sql := range []string{`UPDATE ` + table + ` SET ` + map[string]string{"endorsement": "signer", "endorsed_value": "subject"}[table] + ` = 'x'`, `DELETE FROM ` + table, `TRUNCATE ` + table + ` CASCADE`} {
			if _, err := r.db.Exec(t.Context(), sql); err == nil || !strings.Contains(err.Error(), "append-only") {
				t.Errorf("%s: %v", sql, err)
			}
		}
	}
}
