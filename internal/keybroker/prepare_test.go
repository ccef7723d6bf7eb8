package keybroker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/eosc-siesta/siestad/internal/door"
)

var errNetwork = errors.New("connection reset")

// keyWorks proves that the prepared key opens: a guest gets it.
func keyWorks(t testing.TB, r *rig) {
	t.Helper()
	r.arm(testWorkspace, 1)
	if _, _, err := r.boot(testWorkspace, 1).grant(door.Unlock); err != nil {
		t.Errorf("the prepared key does not open: %v", err)
	}
	if n := r.count(`SELECT count(*) FROM broker_key WHERE kek IS NOT NULL`); n != 1 {
		t.Errorf("%d living keys, want 1", n)
	}
	if n := len(r.store.names); n != 1 {
		t.Errorf("%d secrets in the key store, want 1", n)
	}
}

// Every call to the key store fails once, before and after it took effect. A new process, which knows nothing but the
// database, finishes the work.
func TestPrepareSurvivesEveryFailure(t *testing.T) {
	for call := 1; call <= 4; call++ {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("call %d applied %v", call, after), func(t *testing.T) {
				t.Parallel()
				r := newRig(t)
				failed := false
				r.store.fault = func(n int, _ string, applied bool) error {
					if n == call && applied == after {
						failed = true
						return errNetwork
					}
					return nil
				}
				_, err := r.broker.Prepare(context.Background(), volumeOf(testWorkspace))
				if failed != (err != nil) {
					t.Fatalf("failed %v, error %v", failed, err)
				}
				r.broker = r.start(r.broker.Logger)
				if _, err := r.broker.Prepare(context.Background(), volumeOf(testWorkspace)); err != nil {
					t.Fatal(err)
				}
				keyWorks(t, r)
			})
		}
	}
}

// The process dies between any two lines: seen from outside, between any two statements. What was committed stays.
func TestPrepareSurvivesCrashes(t *testing.T) {
	for name, ruin := range map[string]func(r *rig){
		"after the volume row": func(r *rig) {
			r.exec(`DELETE FROM broker_key`)
			r.exec(`UPDATE broker_volume SET secret_id = NULL`)
			r.store = emptied(r)
		},
		"after the empty secret": func(r *rig) {
			r.exec(`DELETE FROM broker_key`)
			r.exec(`UPDATE broker_volume SET secret_id = NULL`)
			r.store.payloads["id-"+volumeOf(testWorkspace).SecretName] = nil
		},
		"after the key row": func(r *rig) {
			r.exec(`UPDATE broker_key SET state = 'prepared'`)
			r.store.payloads["id-"+volumeOf(testWorkspace).SecretName] = nil
		},
		"after the payload": func(r *rig) { r.exec(`UPDATE broker_key SET state = 'prepared'`) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			if _, err := r.broker.Prepare(context.Background(), volumeOf(testWorkspace)); err != nil {
				t.Fatal(err)
			}
			ruin(r)
			r.broker = r.start(r.broker.Logger)
			for range 2 {
				if _, err := r.broker.Prepare(context.Background(), volumeOf(testWorkspace)); err != nil {
					t.Fatal(err)
				}
			}
			keyWorks(t, r)
		})
	}
}

func emptied(r *rig) *memoryStore {
	r.store.names, r.store.payloads = map[string]string{}, map[string][]byte{}
	return r.store
}

// A write that was believed lost lands after the next version was made.
func TestPrepareLateWrite(t *testing.T) {
	r := newRig(t)
	var late []byte
	r.store.fault = nil
	slow := &lateStore{memoryStore: r.store, keep: &late}
	r.broker.Stores = slow
	if _, err := r.broker.Prepare(context.Background(), volumeOf(testWorkspace)); !errors.Is(err, errNetwork) {
		t.Fatal(err)
	}
	slow.land = true
	if _, err := r.broker.Prepare(context.Background(), volumeOf(testWorkspace)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(r.store.payload("id-"+volumeOf(testWorkspace).SecretName), late) {
		t.Fatal("the late write did not land")
	}
	keyWorks(t, r)
}

// lateStore loses the first write and lets it land just before the second.
type lateStore struct {
	*memoryStore
	keep *[]byte
	land bool
}

func (s *lateStore) Store(string) (KeyStore, error) { return s, nil }

func (s *lateStore) PutPayload(ctx context.Context, id string, blob []byte) error {
	if !s.land {
		*s.keep = bytes.Clone(blob)
		return errNetwork
	}
	if err := s.memoryStore.PutPayload(ctx, id, *s.keep); err != nil {
		return err
	}
	return s.memoryStore.PutPayload(ctx, id, blob)
}

func TestPrepareTwiceAtOnce(t *testing.T) {
	r := newRig(t)
	var wg sync.WaitGroup
	for range 6 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for {
				_, err := r.broker.Prepare(context.Background(), volumeOf(testWorkspace))
				if errors.Is(err, ErrBusy) {
					continue
				}
				if err != nil {
					t.Error(err)
				}
				return
			}
		}()
	}
	wg.Wait()
	keyWorks(t, r)
}

func TestPrepareRefusesForeignPayload(t *testing.T) {
	r := newRig(t)
	v := volumeOf(testWorkspace)
	id, _ := r.store.EnsureSecret(context.Background(), v.SecretName)
	if err := r.store.PutPayload(context.Background(), id, []byte("planted")); err != nil {
		t.Fatal(err)
	}
	_, err := r.broker.Prepare(context.Background(), v)
	wantCode(t, err, CodeKeyBlob)
	if r.logged.FilterMessage("the key store holds a foreign payload").Len() != 1 {
		t.Error("no alarm")
	}
	v.Project = "other"
	if _, err := r.broker.Prepare(context.Background(), v); !errors.Is(err, ErrState) {
		t.Errorf("prepared for another project: %v", err)
	}
}

func TestBlobSwapIsRefused(t *testing.T) {
	r := newRig(t)
	const other = "01jabcdefghjkmnpqrstvwxyz1"
	r.prepareAndArm(testWorkspace)
	r.prepareAndArm(other)
	a, b := "id-"+volumeOf(testWorkspace).SecretName, "id-"+volumeOf(other).SecretName
	r.store.payloads[b] = r.store.payloads[a]
	_, _, err := r.boot(other, 1).grant(door.Unlock)
	wantCode(t, err, CodeKeyBlob)
	if n := r.count(`SELECT count(*) FROM audit_entry WHERE outcome = 'refused'`); n != 1 {
		t.Error("not audited")
	}
	// Even with the hash in the database changed to fit, the blob does not open outside its own scope.
	r.exec(`UPDATE broker_key SET blob_hash = (SELECT blob_hash FROM broker_key WHERE workspace = $1) WHERE workspace = $2`, testWorkspace, other)
	_, _, err = r.boot(other, 1).grant(door.Unlock)
	wantCode(t, err, CodeKeyBlob)
	r.exec(`UPDATE broker_key SET kek = (SELECT kek FROM broker_key WHERE workspace = $1) WHERE workspace = $2`, testWorkspace, other)
	_, _, err = r.boot(other, 1).grant(door.Unlock)
	wantCode(t, err, CodeKeyBlob)
	if _, _, err := r.boot(testWorkspace, 1).grant(door.Unlock); err != nil {
		t.Errorf("the owner of the blob: %v", err)
	}
}

func TestKeyStoreAway(t *testing.T) {
	r := newRig(t)
	r.prepareAndArm(testWorkspace)
	r.store.fault = func(int, string, bool) error { return errNetwork }
	g := r.boot(testWorkspace, 1)
	if _, _, err := g.challengeFor(door.Unlock); !errors.Is(err, ErrBusy) {
		t.Fatalf("without the key store: %v", err)
	}
	r.store.fault = nil
	c, req, err := g.challengeFor(door.Unlock)
	if err != nil {
		t.Fatal(err)
	}
	r.store.fault = func(int, string, bool) error { return errNetwork }
	if _, err := r.broker.Grant(context.Background(), g.request(c, req, ""), "p"); err != nil {
		t.Errorf("the release called the key store: %v", err)
	}
}

func TestShredLeavesNoPath(t *testing.T) {
	r := newRig(t)
	g, _, _ := r.ready(testWorkspace)
	c, req, err := g.challengeFor(door.Renew)
	if err != nil {
		t.Fatal(err)
	}
	v := volumeOf(testWorkspace)
	blob := bytes.Clone(r.store.payload("id-" + v.SecretName))
	ctx := context.Background()
	r.store.fault = func(_ int, verb string, applied bool) error {
		if verb == "delete" && applied {
			return errNetwork
		}
		return nil
	}
	if err := r.broker.Shred(ctx, testWorkspace); !errors.Is(err, errNetwork) {
		t.Fatal(err)
	}
	if s, _ := r.broker.State(ctx, testWorkspace); s.Destruction != DestructionUnderWay {
		t.Errorf("destruction %q", s.Destruction)
	}
	r.store.fault = nil
	for range 2 {
		if err := r.broker.Shred(ctx, testWorkspace); err != nil {
			t.Fatal(err)
		}
	}
	// Everything that could lead back: renewal, unlock, redelivery, preparing again, the blob put back, the rows.
	_, err = r.broker.Grant(ctx, g.request(c, req, ""), "p")
	wantCode(t, err, CodeWorkspace)
	_, _, err = g.challengeFor(door.Unlock)
	wantCode(t, err, CodeWorkspace)
	if _, err := r.broker.Prepare(ctx, v); !errors.Is(err, ErrShredded) {
		t.Errorf("prepared after shredding: %v", err)
	}
	id, _ := r.store.EnsureSecret(ctx, v.SecretName)
	_ = r.store.PutPayload(ctx, id, blob)
	r.broker = r.start(r.broker.Logger)
	_, _, err = g.challengeFor(door.Unlock)
	wantCode(t, err, CodeWorkspace)
	if n := r.count(`SELECT count(*) FROM broker_key WHERE kek IS NOT NULL`) + r.count(`SELECT count(*) FROM broker_lease WHERE sealed_text IS NOT NULL OR state = 'live'`); n != 0 {
		t.Error("key material is left in the database")
	}
	for _, want := range []string{DestructionPending, DestructionComplete} {
		if s, _ := r.broker.State(ctx, testWorkspace); s.Destruction != want {
			t.Errorf("destruction %q, want %q", s.Destruction, want)
		}
		if _, err := r.broker.RotateRoot(ctx); err != nil {
			t.Fatal(err)
		}
		if err := r.broker.DestroyRoot(ctx, 1); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.broker.Shred(ctx, "neverseen"); err != nil {
		t.Errorf("shredding what was never prepared: %v", err)
	}
	other := volumeOf("neverseen")
	if _, err := r.broker.Prepare(ctx, other); !errors.Is(err, ErrShredded) && !errors.Is(err, ErrState) {
		t.Errorf("prepared after shredding: %v", err)
	}
}

func TestRootsRotate(t *testing.T) {
	r := newRig(t)
	r.prepareAndArm(testWorkspace)
	ctx := context.Background()
	if err := r.broker.DestroyRoot(ctx, 1); !errors.Is(err, ErrRootInUse) {
		t.Errorf("the only root was destroyed: %v", err)
	}
	if _, err := r.ring.Rotate(ctx); err != nil { // a crash before the keys moved
		t.Fatal(err)
	}
	if err := r.broker.DestroyRoot(ctx, 1); !errors.Is(err, ErrRootInUse) {
		t.Errorf("a root in use was destroyed: %v", err)
	}
	if err := r.broker.MoveKeys(ctx); err != nil {
		t.Fatal(err)
	}
	if err := r.broker.DestroyRoot(ctx, 1); err != nil {
		t.Fatal(err)
	}
	if err := r.broker.DestroyRoot(ctx, 1); err != nil {
		t.Errorf("again: %v", err)
	}
	if _, _, err := r.boot(testWorkspace, 1).grant(door.Unlock); err != nil {
		t.Errorf("after the move: %v", err)
	}
}

func TestFileKeyring(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "keyring")
	k, err := CreateFileKeyring(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := CreateFileKeyring(path); err == nil {
		t.Error("an existing keyring was overwritten")
	}
	testKeyring(t, k)
	wrapped, err := k.Wrap(ctx, 2, []byte("aad"), []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	again, err := OpenFileKeyring(path)
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := again.Unwrap(ctx, 2, []byte("aad"), wrapped); err != nil || string(plain) != "secret" {
		t.Errorf("after opening again: %v", err)
	}
	if e, _ := again.Rotate(ctx); e != 3 {
		t.Errorf("epoch %d, want 3: a number was used twice", e)
	}
	if strings.Contains(fmt.Sprintf("%v %+v %#v", k, k, k), "roots") {
		t.Error("the keyring prints its roots")
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o700} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenFileKeyring(path); err == nil {
			t.Errorf("mode %#o accepted", mode)
		}
	}
	_ = os.Chmod(path, 0o600)
	if err := os.Symlink(path, path+".link"); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenFileKeyring(path + ".link"); err == nil {
		t.Error("a symbolic link accepted")
	}
	for _, body := range []string{"", "{}", `{"version":1,"next_epoch":2,"roots":[{"epoch":1,"key":"AA=="}]}`, `{"version":1,"next_epoch":2,"roots":[]}`} {
		if err := os.WriteFile(path, []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenFileKeyring(path); err == nil {
			t.Errorf("%q accepted", body)
		}
	}
	if _, err := OpenFileKeyring(path + ".none"); err == nil {
		t.Error("a keyring was made by opening it")
	}
}

// testKeyring is what every keyring must do. It begins with epoch 1 and leaves epoch 2.
func testKeyring(t *testing.T, k Keyring) {
	t.Helper()
	ctx := context.Background()
	epochs, err := k.Epochs(ctx)
	if err != nil || len(epochs) != 1 || epochs[0] != 1 {
		t.Fatalf("epochs %v, %v", epochs, err)
	}
	secret := []byte("0123456789abcdef0123456789abcdef")
	wrapped, err := k.Wrap(ctx, 1, []byte("aad"), secret)
	if err != nil {
		t.Fatal(err)
	}
	other, err := k.Wrap(ctx, 1, []byte("aad"), secret)
	if err != nil || bytes.Equal(wrapped, other) || bytes.Contains(wrapped, secret) {
		t.Error("wrapping is not randomised")
	}
	if plain, err := k.Unwrap(ctx, 1, []byte("aad"), wrapped); err != nil || !bytes.Equal(plain, secret) {
		t.Errorf("unwrapping: %v", err)
	}
	if _, err := k.Unwrap(ctx, 1, []byte("other"), wrapped); err == nil {
		t.Error("unwrapped with another aad")
	}
	for _, i := range []int{0, len(wrapped) / 2, len(wrapped) - 1} {
		bad := bytes.Clone(wrapped)
		bad[i] ^= 1
		if _, err := k.Unwrap(ctx, 1, []byte("aad"), bad); err == nil {
			t.Errorf("unwrapped with byte %d changed", i)
		}
	}
	if _, err := k.Unwrap(ctx, 1, []byte("aad"), nil); err == nil {
		t.Error("unwrapped nothing")
	}
	if _, err := k.Wrap(ctx, 9, nil, secret); err == nil {
		t.Error("wrapped under a root that is not there")
	}
	if err := k.Destroy(ctx, 1); err == nil {
		t.Error("the newest root was destroyed")
	}
	if e, err := k.Rotate(ctx); err != nil || e != 2 {
		t.Fatalf("rotated to %d, %v", e, err)
	}
	if plain, err := k.Unwrap(ctx, 1, []byte("aad"), wrapped); err != nil || !bytes.Equal(plain, secret) {
		t.Errorf("after rotating: %v", err)
	}
	for range 2 {
		if err := k.Destroy(ctx, 1); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := k.Unwrap(ctx, 1, []byte("aad"), wrapped); err == nil {
		t.Error("unwrapped under a destroyed root")
	}
	if epochs, err := k.Epochs(ctx); err != nil || len(epochs) != 1 || epochs[0] != 2 {
		t.Errorf("epochs %v, %v", epochs, err)
	}
}

func TestExplainNamesEveryFact(t *testing.T) {
	r := newRig(t)
	if _, err := r.broker.Prepare(context.Background(), volumeOf(testWorkspace)); err != nil {
		t.Fatal(err)
	}
	if facts, err := r.broker.Explain(context.Background(), testWorkspace); !errors.Is(err, ErrNotFound) {
		t.Errorf("before a guest is armed it is not known whose it is: %+v, %v", facts, err)
	}
	r.ready(testWorkspace)
	check := func(failing string) {
		t.Helper()
		facts, err := r.broker.Explain(context.Background(), testWorkspace)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, f := range facts {
			names = append(names, f.Name)
			if f.Holds == (f.Name == failing) {
				t.Errorf("%s holds: %v (%s)", f.Name, f.Holds, f.Why)
			}
			if !f.Holds && f.Fix == "" || f.Why == "" {
				t.Errorf("%s: nobody can fix it: %+v", f.Name, f)
			}
		}
		if got := strings.Join(names, " "); got != "permit project image appraisal guest no_freeze lease" {
			t.Errorf("facts %s", got)
		}
	}
	check("")
	r.exec(freezeSQL("site", testSite))
	check("no_freeze")
	r.exec(`UPDATE freeze_order SET state = 'lifted', lifted_by = 'carol'`)
	r.exec(`UPDATE project SET members = '{}'`)
	check("project")
}

func TestNothingSecretIsLogged(t *testing.T) {
	r := newRig(t)
	g, _, sealed := r.ready(testWorkspace)
	_, _, _ = r.boot(testWorkspace, 1).grant(door.Unlock)
	_, _, _ = g.grant(door.Renew)
	report, _ := g.machine.report([64]byte{})
	for _, entry := range r.logged.All() {
		text := fmt.Sprintf("%s %v", entry.Message, entry.ContextMap())
		for _, secret := range [][]byte{sealed.LUKSKey, sealed.HeaderMACKey, report[64:96]} {
			if strings.Contains(text, string(secret)) || strings.Contains(text, hexOf(secret)) {
				t.Errorf("a secret in the log: %s", entry.Message)
			}
		}
	}
}

func FuzzBlob(f *testing.F) {
	f.Add([]byte(blobMagic), 1)
	f.Add(append([]byte(blobMagic+"\x01\x00\x00\x00\x01"), make([]byte, blobSize-blobPrefix)...), 1)
	f.Fuzz(func(t *testing.T, blob []byte, version int) {
		prefix, err := volumeCustody.prefix(blob, version)
		if err == nil && (len(blob) < blobPrefix+sealedExtra || !bytes.HasPrefix(blob, []byte(blobMagic)) || !bytes.Equal(prefix, blob[:blobPrefix])) {
			t.Errorf("accepted %x", blob)
		}
	})
}
