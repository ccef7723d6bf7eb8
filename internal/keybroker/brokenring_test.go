package keybroker

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/eosc-siesta/siestad/internal/permit"
)

// brokenRing fails in one of the ways in which a keyring can.
type brokenRing struct {
	Keyring
	wrap, unwrap, epochs, rotate, destroy bool
}

var errRing = errors.New("the token is away")

func failed(now bool) error {
	if now {
		return errRing
	}
	return nil
}

func (k *brokenRing) Wrap(ctx context.Context, epoch int, aad, plain []byte) ([]byte, error) {
	if k.wrap {
		return nil, errRing
	}
	return k.Keyring.Wrap(ctx, epoch, aad, plain)
}

func (k *brokenRing) Unwrap(ctx context.Context, epoch int, aad, wrapped []byte) ([]byte, error) {
	if k.unwrap {
		return nil, errRing
	}
	return k.Keyring.Unwrap(ctx, epoch, aad, wrapped)
}

func (k *brokenRing) Epochs(ctx context.Context) ([]int, error) {
	if k.epochs {
		return nil, errRing
	}
	return k.Keyring.Epochs(ctx)
}

func (k *brokenRing) Rotate(ctx context.Context) (int, error) {
	if k.rotate {
		return 0, errRing
	}
	return k.Keyring.Rotate(ctx)
}

func (k *brokenRing) Destroy(ctx context.Context, epoch int) error {
	if err := failed(k.destroy); err != nil {
		return err
	}
	return k.Keyring.Destroy(ctx, epoch)
}

// TestKeyringAway: whatever the keyring does not do is told, and no key is lost over it.
func TestKeyringAway(t *testing.T) {
	r := newRig(t)
	ctx := context.Background()
	r.prepareAndArm(testWorkspace)
	s := r.secret(newSecret("one"))
	ring := &brokenRing{Keyring: r.ring}
	r.broker.Keyring = ring
	told := func(name string, do func() error) {
		t.Helper()
		if err := do(); !errors.Is(err, errRing) {
			t.Errorf("%s: %v", name, err)
		}
		*ring = brokenRing{Keyring: r.ring}
	}
	move := func() error { return r.broker.MoveKeys(ctx) }
	ring.rotate = true
	told("rotate", func() error {
		epoch, err := r.broker.RotateRoot(ctx)
		if epoch != 0 {
			t.Errorf("epoch %d", epoch)
		}
		return err
	})
	if epochs, _ := r.ring.Epochs(ctx); len(epochs) != 1 {
		t.Errorf("roots %v", epochs)
	}
	ring.epochs = true
	told("list before moving", move)
	r.broker.Keyring = emptyRing{}
	if err := move(); err == nil || !strings.Contains(err.Error(), "the keyring is empty") {
		t.Errorf("an empty keyring: %v", err)
	}
	if err := r.broker.DestroyRoot(ctx, 1); !errors.Is(err, ErrRootInUse) {
		t.Errorf("destroy with an empty keyring: %v", err)
	}
	r.broker.Keyring = ring
	ring.wrap, ring.rotate = true, false
	told("prepare", func() error { _, err := r.broker.Prepare(ctx, volumeOf("01jabcdefghjkmnpqrstvwxyz4")); return err })
	ring.epochs = true
	told("stage", func() error { _, err := r.stage(newSecret("two")); return err })
	if _, err := r.ring.Rotate(ctx); err != nil {
		t.Fatal(err)
	}
	ring.unwrap = true
	told("unwrap a volume's KEK", move)
	ring.wrap = true
	told("wrap a volume's KEK", move)
	if n := r.count(`SELECT count(*) FROM broker_key WHERE epoch = 1 AND kek IS NOT NULL`); n != 1 {
		t.Errorf("%d keys under the first root", n)
	}
	if err := r.tx(func(tx pgx.Tx) error { _, err := r.broker.moveOne(ctx, tx, 2); return err }); err != nil {
		t.Fatal(err)
	}
	ring.unwrap = true
	told("unwrap a secret's KEK", move)
	ring.wrap = true
	told("wrap a secret's KEK", move)
	if err := move(); err != nil {
		t.Fatal(err)
	}
	if n := r.count(`SELECT (SELECT count(*) FROM broker_key WHERE epoch = 2 AND kek IS NOT NULL) + (SELECT count(*) FROM broker_secret WHERE epoch = 2 AND kek IS NOT NULL)`); n != 2 {
		t.Errorf("%d under the second root", n)
	}
	if got, err := r.open(s.ID); err != nil || string(got) != string(secretPayload) {
		t.Errorf("%q, %v", got, err)
	}
	ring.epochs = true
	told("list before destroying", func() error { return r.broker.DestroyRoot(ctx, 1) })
	ring.destroy = true
	told("destroy", func() error { return r.broker.DestroyRoot(ctx, 1) })
	if err := r.broker.DestroyRoot(ctx, 2); !errors.Is(err, ErrRootInUse) {
		t.Errorf("the newest root: %v", err)
	}
	// What is fetched is forgotten with what ends, and with nothing else.
	other := r.secret(newSecret("three"))
	if _, err := r.open(other.ID); err != nil {
		t.Fatal(err)
	}
	if err := r.tx(func(tx pgx.Tx) error { _, _, err := r.broker.EndSecret(ctx, tx, carol, s.ID); return err }); err != nil {
		t.Fatal(err)
	}
	if err := r.broker.sweep(ctx); err != nil {
		t.Fatal(err)
	}
	kept := func(workspace string) (n int) {
		for k := range r.broker.blobs.m {
			if k.workspace == workspace {
				n++
			}
		}
		return n
	}
	if kept(secretObject(s.ID)) != 0 || kept(secretObject(other.ID)) != 1 {
		t.Errorf("in memory: %v", r.broker.blobs.m)
	}
	if _, _, err := r.boot(testWorkspace, 1).grant("unlock"); err != nil {
		t.Fatal(err)
	}
	if err := r.broker.Shred(ctx, testWorkspace); err != nil {
		t.Fatal(err)
	}
	if kept(testWorkspace) != 0 || kept(secretObject(other.ID)) != 1 {
		t.Errorf("in memory after the shredding: %v", r.broker.blobs.m)
	}
	if n := r.count(`SELECT count(*) FROM broker_arm WHERE state <> 'disarmed'`); n != 0 {
		t.Error("what is shredded is armed")
	}
	if _, err := r.broker.State(ctx, "01jabcdefghjkmnpqrstvwxyz5"); !errors.Is(err, ErrNotFound) {
		t.Errorf("the state of nothing: %v", err)
	}
	ring.epochs = true
	told("state of what is shredded", func() error { _, err := r.broker.State(ctx, testWorkspace); return err })
	ring.epochs = true
	told("a secret that has ended", func() error { _, err := r.broker.Secret(ctx, s.ID); return err })
	ring.epochs = true
	told("secrets that have ended", func() error { _, err := r.broker.Secrets(ctx, "", "", 10); return err })
}

// A quarantine that knows no machines finds leases by their chip all the same.
func TestQuarantineWithoutHosts(t *testing.T) {
	r := newRig(t)
	_, answer, _ := r.ready(testWorkspace)
	var hits []Hit
	if err := r.tx(func(tx pgx.Tx) (err error) {
		hits, err = Quarantine(context.Background(), tx, nil, permit.FreezeKind("chip"), strings.Repeat("00", 64), func(context.Context, pgx.Tx) (string, error) { return "why", nil })
		return err
	}); err != nil || len(hits) != 1 || hits[0].Lease != answer.Lease.ID || hits[0].Host != "" || hits[0].Chip == "" {
		t.Errorf("%+v, %v", hits, err)
	}
	if n := r.count(`SELECT count(*) FROM broker_lease WHERE state = 'ended' AND ended_why = 'why'`); n != 1 {
		t.Errorf("%d leases ended", n)
	}
}
