package keybroker

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/door"
	"github.com/eosc-siesta/siestad/internal/kbs"
)

var (
	carol         = audit.Actor{Kind: audit.Person, Subject: "https://issuer|carol", Name: "carol"}
	secretPayload = []byte("a token for the registry of the study")
)

func newSecret(tag string) Secret {
	return Secret{Project: testProject, Site: testSite, Resource: kbs.Resource{Repository: "default", Type: "token", Tag: tag}}
}

func (r *rig) stage(s Secret) (Secret, error) {
	return r.broker.StageSecret(context.Background(), carol, s, door.Secret(bytes.Clone(secretPayload)))
}

func (r *rig) confirm(id string) (s Secret, err error) {
	err = r.tx(func(tx pgx.Tx) (err error) {
		s, _, err = r.broker.ConfirmSecret(context.Background(), tx, carol, id)
		return err
	})
	return s, err
}

func (r *rig) secret(s Secret) Secret {
	r.t.Helper()
	staged, err := r.stage(s)
	if err != nil {
		r.t.Fatal(err)
	}
	live, err := r.confirm(staged.ID)
	if err != nil {
		r.t.Fatal(err)
	}
	return live
}

func (r *rig) open(id string) ([]byte, error) {
	r.t.Helper()
	s, err := scanSecret(r.db.QueryRow(context.Background(), `SELECT `+secretColumns+` FROM broker_secret WHERE id = $1`, id))
	if err != nil {
		r.t.Fatal(err)
	}
	return r.broker.openSecret(context.Background(), &attempt{secret: &s})
}

// Neither store has the payload, and each alone opens nothing.
func TestSecretIsWrapped(t *testing.T) {
	r := newRig(t)
	s := r.secret(newSecret("one"))
	if got, err := r.open(s.ID); err != nil || !bytes.Equal(got, secretPayload) {
		t.Fatalf("opened %q, %v", got, err)
	}
	if blob := r.store.payload(s.secretID); bytes.Contains(blob, secretPayload) || len(blob) != blobPrefix+sealedExtra+len(secretPayload) {
		t.Errorf("the key store holds %q", blob)
	}
	var rows string
	if err := r.db.QueryRow(context.Background(), `SELECT string_agg(t::text, '') FROM broker_secret t`).Scan(&rows); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(rows, "registry") || strings.Contains(rows, "7265676973747279") {
		t.Errorf("the database holds the payload: %s", rows)
	}
	if n := r.count(`SELECT (SELECT count(*) FROM audit_inbox WHERE action = 'secret.create') + (SELECT count(*) FROM audit_entry WHERE action = 'secret.create')`); n != 1 {
		t.Errorf("%d entries about the secret", n)
	}
	again, err := r.broker.Secret(context.Background(), s.ID)
	if err != nil || again.State != SecretLive || again.Path() != "default/token/one" || again.CreatedBy != carol.Subject {
		t.Errorf("shown as %+v, %v", again, err)
	}
}

// What a database administrator can move about is bound into the wrapping.
func TestMovedSecretDoesNotOpen(t *testing.T) {
	r := newRig(t)
	s, other := r.secret(newSecret("one")), r.secret(newSecret("two"))
	for column, value := range map[string]string{"project": "elsewhere", "dataset": "other-v1", "repository": "x", "type": "x", "tag": "x", "site": "iisas"} {
		var was string
		if err := r.db.QueryRow(context.Background(), `SELECT `+column+` FROM broker_secret WHERE id = $1`, s.ID).Scan(&was); err != nil {
			t.Fatal(err)
		}
		r.exec(`UPDATE broker_secret SET `+column+` = $2 WHERE id = $1`, s.ID, value)
		_, err := r.open(s.ID)
		wantCode(t, err, CodeKeyBlob)
		r.exec(`UPDATE broker_secret SET `+column+` = $2 WHERE id = $1`, s.ID, was)
	}
	r.broker.blobs.drop(func(blobKey) bool { return true })
	r.exec(`UPDATE broker_secret SET secret_id = $2 WHERE id = $1`, s.ID, other.secretID)
	_, err := r.open(s.ID) // the other's blob: not the recorded hash
	wantCode(t, err, CodeKeyBlob)
	r.exec(`UPDATE broker_secret SET blob_hash = o.blob_hash FROM broker_secret o WHERE broker_secret.id = $1 AND o.id = $2`, s.ID, other.ID)
	_, err = r.open(s.ID) // with its hash: not this KEK
	wantCode(t, err, CodeKeyBlob)
}

func TestVolumeKeyIsNoSecret(t *testing.T) {
	r := newRig(t)
	ctx, sc := context.Background(), scope{installation: "testinst", site: testSite, workspace: "w", version: 1}
	e, err := newEnvelope(ctx, r.ring, sc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.unwrap(ctx, r.ring, secretCustody, sc); err == nil {
		t.Error("a volume's key opens as a secret")
	}
	if e, err = wrap(ctx, r.ring, secretCustody, sc, make([]byte, dekSize)); err != nil {
		t.Fatal(err)
	}
	if _, err := e.open(ctx, r.ring, sc); err == nil {
		t.Error("a secret opens as a volume's key")
	}
}

func TestEndedSecretIsGone(t *testing.T) {
	r := newRig(t)
	s := r.secret(newSecret("one"))
	end := func() error {
		return r.tx(func(tx pgx.Tx) error {
			_, _, err := r.broker.EndSecret(context.Background(), tx, carol, s.ID)
			return err
		})
	}
	if err := end(); err != nil {
		t.Fatal(err)
	}
	if err := end(); !errors.Is(err, ErrState) {
		t.Errorf("a second end: %v", err)
	}
	if n := r.count(`SELECT count(*) FROM broker_secret WHERE kek IS NOT NULL`); n != 0 {
		t.Error("the KEK outlives the secret")
	}
	shown := func() Secret {
		got, err := r.broker.Secret(context.Background(), s.ID)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if got := shown(); got.State != SecretEnding || got.Destruction != DestructionUnderWay || got.EndedBy != carol.Subject {
		t.Errorf("after the end: %+v", got)
	}
	r.store.fault = func(_ int, verb string, applied bool) error {
		if verb == "delete" && applied {
			return errors.New("the answer is lost")
		}
		return nil
	}
	if err := r.broker.sweep(context.Background()); err == nil {
		t.Error("a lost answer is taken for a deletion")
	}
	r.store.fault = nil
	if err := r.broker.sweep(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := shown(); got.State != SecretEnded || got.Destruction != DestructionPending || r.store.payload(s.secretID) != nil {
		t.Errorf("after the sweep: %+v", got)
	}
	if _, err := r.broker.RotateRoot(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := r.broker.DestroyRoot(context.Background(), 1); err != nil {
		t.Fatal(err)
	}
	if got := shown(); got.Destruction != DestructionComplete {
		t.Errorf("after the root: %+v", got)
	}
}

// A process that dies anywhere on the way leaves nothing that a guest could get, and nothing for ever.
func TestSecretThatWasNeverConfirmed(t *testing.T) {
	for name, fault := range map[string]func(call int, verb string, applied bool) error{
		"no answer to ensure":    func(_ int, verb string, applied bool) error { return failIf(verb == "ensure" && applied) },
		"no connection":          func(_ int, verb string, applied bool) error { return failIf(verb == "ensure" && !applied) },
		"payload refused":        func(_ int, verb string, applied bool) error { return failIf(verb == "put" && !applied) },
		"no answer to put":       func(_ int, verb string, applied bool) error { return failIf(verb == "put" && applied) },
		"died after the payload": nil,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.store.fault = fault
			s, err := r.stage(newSecret("one"))
			if (err == nil) != (fault == nil) {
				t.Fatalf("staging: %v", err)
			}
			r.store.fault = nil
			if list, err := r.broker.Secrets(context.Background(), "", "", 10); err != nil || len(list) != 0 {
				t.Errorf("listed: %+v, %v", list, err)
			}
			if err := r.broker.sweep(context.Background()); err != nil {
				t.Fatal(err)
			}
			if n := r.count(`SELECT count(*) FROM broker_secret WHERE state = 'staged'`); n != 1 {
				t.Error("a staged secret was swept at once")
			}
			r.exec(`UPDATE broker_secret SET created_at = now() - interval '11 minutes'`)
			if err := r.broker.sweep(context.Background()); err != nil {
				t.Fatal(err)
			}
			if n := r.count(`SELECT count(*) FROM broker_secret WHERE state = 'ended' AND kek IS NULL`); n != 1 || len(r.store.payloads) != 0 {
				t.Errorf("%d ended, the key store has %v", n, r.store.names)
			}
			if s.ID != "" {
				if _, err := r.confirm(s.ID); !errors.Is(err, ErrBusy) {
					t.Errorf("confirmed after the sweep: %v", err)
				}
			}
			if list, err := r.broker.Secrets(context.Background(), "", "", 10); err != nil || len(list) != 0 {
				t.Errorf("listed: %+v, %v", list, err)
			}
		})
	}
}

func failIf(now bool) error {
	if now {
		return errors.New("the key store is away")
	}
	return nil
}

func TestOnePathOneSecret(t *testing.T) {
	r := newRig(t)
	first := r.secret(newSecret("one"))
	second, err := r.stage(newSecret("one"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.confirm(second.ID); !errors.Is(err, ErrExists) {
		t.Errorf("two live secrets of one path: %v", err)
	}
	if err := r.tx(func(tx pgx.Tx) error {
		_, _, err := r.broker.EndSecret(context.Background(), tx, carol, first.ID)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.confirm(second.ID); err != nil {
		t.Errorf("the path of an ended secret: %v", err)
	}
}

func TestSecretBounds(t *testing.T) {
	r := newRig(t)
	stage := func(s Secret, size int) error {
		_, err := r.broker.StageSecret(context.Background(), carol, s, make(door.Secret, size))
		return err
	}
	for name, err := range map[string]error{
		"empty":      stage(newSecret("one"), 0),
		"too long":   stage(newSecret("one"), MaxSecret+1),
		"no tag":     stage(newSecret(""), 1),
		"a slash":    stage(newSecret("a/b"), 1),
		"dots":       stage(newSecret(".."), 1),
		"a blank":    stage(newSecret("a b"), 1),
		"a long tag": stage(newSecret(strings.Repeat("a", 129)), 1),
		"no project": stage(Secret{Site: testSite, Resource: newSecret("one").Resource}, 1),
		"no site":    stage(Secret{Project: testProject, Resource: newSecret("one").Resource}, 1),
		"nobody stores it": func() error {
			_, err := r.broker.StageSecret(context.Background(), audit.Actor{}, newSecret("one"), make(door.Secret, 1))
			return err
		}(),
		"another character": stage(newSecret("ä"), 1),
	} {
		if !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := stage(newSecret(strings.Repeat("a", 128)), MaxSecret); err != nil {
		t.Errorf("the largest: %v", err)
	}
	if n := r.count(`SELECT count(*) FROM broker_secret`); n != 1 {
		t.Errorf("%d rows", n)
	}
}

// A rotation takes the secrets along, and a root is not destroyed under them.
func TestSecretsMoveWithTheRoot(t *testing.T) {
	r := newRig(t)
	s := r.secret(newSecret("one"))
	if _, err := r.ring.Rotate(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := r.broker.DestroyRoot(context.Background(), 1); !errors.Is(err, ErrRootInUse) {
		t.Errorf("the root under a living secret: %v", err)
	}
	if err := r.broker.MoveKeys(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := r.broker.DestroyRoot(context.Background(), 1); err != nil {
		t.Fatal(err)
	}
	if got, err := r.open(s.ID); err != nil || !bytes.Equal(got, secretPayload) {
		t.Errorf("opened %q, %v", got, err)
	}
}
