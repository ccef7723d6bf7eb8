package image_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/audit/audittest"
	"github.com/eosc-siesta/siestad/internal/image"
	"github.com/eosc-siesta/siestad/internal/postgres"
	"github.com/eosc-siesta/siestad/internal/postgres/pgtest"
)

var (
	olga  = audit.Actor{Kind: audit.Person, Subject: "https://id.test|olga", Name: "olga"}
	oscar = audit.Actor{Kind: audit.Person, Subject: "https://id.test|oscar", Name: "oscar"}
	carlo = audit.Actor{Kind: audit.Person, Subject: "https://id.test|carlo", Name: "carlo"}
)

type rig struct {
	t  *testing.T
	db *pgxpool.Pool
	*image.Service
}

func newRig(t *testing.T) rig {
	db := pgtest.New(t)
	return rig{t, db, image.New(db, audittest.Recorder(t))}
}

func (r rig) try(fn func(pgx.Tx) error) error {
	return postgres.InTx(r.t.Context(), r.db, fn)
}

func (r rig) must(fn func(pgx.Tx) error) {
	r.t.Helper()
	if err := r.try(fn); err != nil {
		r.t.Fatal(err)
	}
}

func (r rig) store(kind image.Kind, content []byte) image.File {
	r.t.Helper()
	u, err := image.Receive(kind, bytes.NewReader(content))
	if err != nil {
		r.t.Fatal(err)
	}
	defer u.Close()
	r.must(func(tx pgx.Tx) error { return r.Store(r.t.Context(), tx, u) })
	return u.File
}

// draft returns a complete draft made by olga.
func (r rig) draft() image.Image {
	r.t.Helper()
	var img image.Image
	r.must(func(tx pgx.Tx) (err error) { img, _, err = r.Create(r.t.Context(), tx, olga, "guest"); return err })
	for _, kind := range []image.Kind{image.Kernel, image.Initrd, image.Firmware} {
		f := r.store(kind, []byte("the "+kind))
		r.must(func(tx pgx.Tx) (err error) {
			img, _, err = r.Attach(r.t.Context(), tx, olga, img.ID, kind, f.SHA256)
			return err
		})
	}
	return img
}

func (r rig) register(who audit.Actor, id string) error {
	return r.try(func(tx pgx.Tx) error { _, _, err := r.Register(r.t.Context(), tx, who, id); return err })
}

func (r rig) approve(who audit.Actor, id string) error {
	return r.try(func(tx pgx.Tx) error { _, _, err := r.Approve(r.t.Context(), tx, who, id); return err })
}

func TestOneRegistersAnotherApproves(t *testing.T) {
	r := newRig(t)
	img := r.draft()
	if err := r.approve(carlo, img.ID); !errors.Is(err, image.ErrState) {
		t.Errorf("approving a draft: got %v", err)
	}
	if err := r.register(oscar, img.ID); err != nil {
		t.Fatal(err)
	}
	for _, who := range []audit.Actor{olga, oscar, {}} {
		if err := r.approve(who, img.ID); !errors.Is(err, image.ErrSelfApproval) {
			t.Errorf("%q, who made or registered it or is nobody, approves: got %v", who.Name, err)
		}
	}
	if err := r.approve(carlo, img.ID); err != nil {
		t.Fatal(err)
	}
	got, err := r.Image(t.Context(), img.ID)
	if err != nil || got.State != image.Approved || got.ApprovedBy != carlo.Subject {
		t.Errorf("after approval: %+v, %v", got, err)
	}
}

// The database itself refuses what the service would never write.
func TestDatabaseRefusesSelfApproval(t *testing.T) {
	r := newRig(t)
	img := r.draft()
	if err := r.register(oscar, img.ID); err != nil {
		t.Fatal(err)
	}
	for _, who := range []audit.Actor{olga, oscar} {
		if _, err := r.db.Exec(t.Context(), `UPDATE image SET state = 'approved', approved_by = $2 WHERE id = $1`, img.ID, who.Subject); err == nil {
			t.Errorf("the database let %s approve", who.Name)
		}
	}
}

func TestRegisterNeedsAllFilesAndThenNothingChanges(t *testing.T) {
	r := newRig(t)
	var empty image.Image
	r.must(func(tx pgx.Tx) (err error) { empty, _, err = r.Create(t.Context(), tx, olga, "guest"); return err })
	err := r.register(olga, empty.ID)
	if !errors.Is(err, image.ErrState) || !strings.Contains(err.Error(), "upload kernel, initrd, firmware") {
		t.Errorf("registering an empty draft: got %v", err)
	}
	img := r.draft()
	if err := r.register(olga, img.ID); err != nil {
		t.Fatal(err)
	}
	other := r.store(image.Kernel, []byte("another kernel"))
	err = r.try(func(tx pgx.Tx) error {
		_, _, err := r.Attach(t.Context(), tx, olga, img.ID, image.Kernel, other.SHA256)
		return err
	})
	if !errors.Is(err, image.ErrState) {
		t.Errorf("changing a registered image: got %v", err)
	}
}

// What was compared with a locked image is true until the transaction ends.
func TestALockedImageStays(t *testing.T) {
	r := newRig(t)
	img := r.draft()
	r.must(func(tx pgx.Tx) error {
		if _, err := r.Lock(t.Context(), tx, img.ID); err != nil {
			return err
		}
		err := r.try(func(other pgx.Tx) error {
			if _, err := other.Exec(t.Context(), `SET LOCAL lock_timeout = '50ms'`); err != nil {
				return err
			}
			_, err := r.Lock(t.Context(), other, img.ID)
			return err
		})
		if pg := (*pgconn.PgError)(nil); !errors.As(err, &pg) || pg.Code != "55P03" {
			t.Errorf("locked twice: %v", err)
		}
		return nil
	})
	if err := r.try(func(tx pgx.Tx) error { _, err := r.Lock(t.Context(), tx, "nothing"); return err }); !errors.Is(err, image.ErrNotFound) {
		t.Errorf("an image that is not there: %v", err)
	}
}

func TestOnlyTheAuthorOfADraftUploads(t *testing.T) {
	r := newRig(t)
	img := r.draft()
	f := r.store(image.Kernel, []byte("planted"))
	err := r.try(func(tx pgx.Tx) error {
		_, _, err := r.Attach(t.Context(), tx, carlo, img.ID, image.Kernel, f.SHA256)
		return err
	})
	if !errors.Is(err, image.ErrNotAuthor) {
		t.Errorf("somebody else's upload: got %v", err)
	}
}

func TestWithdrawnIsFinal(t *testing.T) {
	r := newRig(t)
	img := r.draft()
	withdraw := func() error {
		return r.try(func(tx pgx.Tx) error { _, _, err := r.Withdraw(t.Context(), tx, carlo, img.ID); return err })
	}
	if err := withdraw(); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{"withdraw": withdraw(), "register": r.register(olga, img.ID), "approve": r.approve(carlo, img.ID)} {
		if !errors.Is(err, image.ErrState) {
			t.Errorf("%s after withdrawal: got %v", name, err)
		}
	}
}

func TestFilesAreKeptByContentAndReadBack(t *testing.T) {
	r := newRig(t)
	for name, size := range map[string]int{"one byte": 1, "one piece": 1 << 20, "a piece and a byte": 1<<20 + 1, "three pieces": 3 << 20} {
		content := bytes.Repeat([]byte(name[:1]), size)
		f := r.store(image.Initrd, content)
		if f.SHA256 != sha256.Sum256(content) || f.Size != int64(size) {
			t.Errorf("%s: stored as %x, %d bytes", name, f.SHA256, f.Size)
		}
		if again := r.store(image.Initrd, content); again != f {
			t.Errorf("%s: stored again as %+v", name, again)
		}
		reader, err := r.Open(t.Context(), f.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(reader)
		if err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s: read back %d bytes, %v", name, len(got), err)
		}
		reader.Close()
	}
	if _, err := r.Open(t.Context(), [32]byte{1}); !errors.Is(err, image.ErrNotFound) {
		t.Errorf("opening what is not there: got %v", err)
	}
}

func TestUploadsAreBoundedAndLeaveNothingBehind(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	zeros, broken := zeroReader{}, errors.New("connection lost")
	for name, row := range map[string]struct {
		kind image.Kind
		r    io.Reader
		want error
		says string
	}{
		"one byte too many":            {image.Firmware, io.LimitReader(zeros, image.Firmware.MaxSize()+1), image.ErrTooLarge, ""},
		"an upload that breaks off":    {image.Kernel, io.MultiReader(io.LimitReader(zeros, 3<<20), failingReader{broken}), broken, ""},
		"an empty file":                {image.Kernel, strings.NewReader(""), image.ErrInvalid, "receiving kernel: it is empty"},
		"a file of an unknown kind":    {"disk", zeros, image.ErrInvalid, `receiving a file: "disk" is neither kernel, initrd nor firmware`},
		"a file of no kind whatsoever": {"", zeros, image.ErrInvalid, `receiving a file: "" is neither kernel, initrd nor firmware`},
	} {
		if _, err := image.Receive(row.kind, row.r); !errors.Is(err, row.want) || row.says != "" && err.Error() != row.says {
			t.Errorf("%s: got %v, want %v", name, err, row.want)
		}
	}
	u, err := image.Receive(image.Firmware, strings.NewReader("held"))
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	if left, err := os.ReadDir(os.TempDir()); err != nil || len(left) != 0 {
		t.Errorf("uploads, one of them still held, left %v behind, %v", left, err)
	}
}

// A transaction that fails leaves no part of a file.
func TestAFileIsStoredWholeOrNotAtAll(t *testing.T) {
	r := newRig(t)
	u, err := image.Receive(image.Kernel, io.LimitReader(zeroReader{}, 3<<20))
	if err != nil {
		t.Fatal(err)
	}
	must := errors.New("something after it")
	err = r.try(func(tx pgx.Tx) error { return errors.Join(r.Store(t.Context(), tx, u), must) })
	if !errors.Is(err, must) {
		t.Fatal(err)
	}
	if err := u.Close(); err != nil {
		t.Fatal(err)
	}
	if err := r.try(func(tx pgx.Tx) error { return r.Store(t.Context(), tx, u) }); err == nil {
		t.Error("an upload that is gone was stored")
	}
	var left int
	if err := r.db.QueryRow(t.Context(), `SELECT (SELECT count(*) FROM blob) + (SELECT count(*) FROM blob_piece)`).Scan(&left); err != nil || left != 0 {
		t.Errorf("failed transactions left %d rows, %v", left, err)
	}
}

type zeroReader struct{}

func (zeroReader) Read(b []byte) (int, error) { clear(b); return len(b), nil }

type failingReader struct{ err error }

func (f failingReader) Read([]byte) (int, error) { return 0, f.err }
