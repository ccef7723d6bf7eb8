package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/eosc-siesta/siestad/internal/postgres"
)

func TestAppendWaitVerify(t *testing.T) {
	r := newRig(t)
	l := r.running()
	for i := range 5 {
		receipt, err := waitID(r.context(), l, r.append(entry(i)))
		if err != nil {
			t.Fatal(err)
		}
		record := r.get(l, receipt.Index)
		index, _, err := l.verify.Receipt([]byte(receipt.Proof), record.Body)
		if err != nil || index != int64(i) {
			t.Fatalf("receipt of entry %d: index %d, %v", i, index, err)
		}
		if _, _, err := l.verify.Receipt([]byte(receipt.Proof), append(record.Body, ' ')); err == nil {
			t.Fatal("a receipt fits another entry")
		}
	}
	r.intact(l)
}

func TestRolledBackLeavesNothing(t *testing.T) {
	r := newRig(t)
	l := r.running()
	no := errors.New("no")
	err := postgres.InTx(r.context(), r.db, func(tx pgx.Tx) error {
		if _, err := r.recorder.Append(r.context(), tx, entry(1)); err != nil {
			return err
		}
		return no
	})
	if !errors.Is(err, no) {
		t.Fatal(err)
	}
	r.fill(l, 1)
	if head := r.intact(l); head.Size != 1 {
		t.Fatalf("the log has %d entries", head.Size)
	}
}

func TestStrangersTransactionStallsNothing(t *testing.T) {
	r := newRig(t)
	l := r.running()
	// It has written, and even appended, and stays open: the xmin horizon of
	// the cluster stands still.
	stranger, err := r.db.Begin(r.context())
	if err != nil {
		t.Fatal(err)
	}
	late, err := r.recorder.Append(r.context(), stranger, entry(0))
	if err != nil {
		t.Fatal(err)
	}
	r.fill(l, 3)
	if head := r.head(l); head.Size != 3 {
		t.Fatalf("the log has %d entries", head.Size)
	}
	// An id taken long ago and committed late is not skipped.
	if err := stranger.Commit(r.context()); err != nil {
		t.Fatal(err)
	}
	receipt, err := waitID(r.context(), l, late)
	if err != nil || receipt.Index != 3 {
		t.Fatalf("index %d, %v", receipt.Index, err)
	}
}

func TestRefuse(t *testing.T) {
	r := newRig(t)
	l := r.running()
	r.fill(l, 1) // it leads
	denial := entry(1)
	denial.Outcome, denial.Code = Refused, "measurement"
	for _, name := range []string{"queue", "inbox of a follower"} {
		t.Run(name, func(t *testing.T) {
			asked := l
			if name != "queue" {
				asked = r.log()
			}
			receipt, err := asked.Refuse(r.context(), denial)
			if err != nil {
				t.Fatal(err)
			}
			record := r.get(l, receipt.Index)
			if record.Outcome != Refused || record.Code != "measurement" || record.Actor.Name != "Alice Canary" {
				t.Errorf("record is %+v", record)
			}
			if _, _, err := l.verify.Receipt([]byte(receipt.Proof), record.Body); err != nil {
				t.Error(err)
			}
		})
	}
	r.intact(l)
}

func TestManyWriters(t *testing.T) {
	r := newRig(t)
	l := r.running()
	r.fill(l, 1)
	const writers, each = 16, 40
	var mu sync.Mutex
	seen := map[int64]bool{}
	var wait sync.WaitGroup
	for w := range writers {
		wait.Go(func() {
			for i := range each {
				var receipt Receipt
				var err error
				if (w+i)%2 == 0 {
					receipt, err = l.Refuse(r.context(), entry(i))
				} else {
					receipt, err = waitID(r.context(), l, r.append(entry(i)))
				}
				if err != nil {
					t.Error(err)
					return
				}
				p, err := parseReceipt([]byte(receipt.Proof))
				if err != nil {
					t.Error(err)
					return
				}
				head, err := l.verify.Checkpoint(p.checkpoint)
				if err != nil {
					t.Error(err)
					return
				}
				if err := tlog.CheckRecord(p.proof, head.Size, head.Root, p.index, r.get(l, p.index).LeafHash); err != nil {
					t.Errorf("receipt %d: %v", p.index, err)
				}
				mu.Lock()
				if seen[receipt.Index] {
					t.Errorf("index %d given twice", receipt.Index)
				}
				seen[receipt.Index] = true
				mu.Unlock()
			}
		})
	}
	wait.Wait()
	if head := r.intact(l); head.Size != 1+writers*each {
		t.Fatalf("the log has %d entries", head.Size)
	}
}

// TestProofs compares every kind of proof with the tree, across tile borders.
func TestProofs(t *testing.T) {
	r := newRig(t)
	l := r.running()
	for _, n := range []int{1, 254, 1, 1, 300, 1200} {
		r.fill(l, n)
	}
	head := r.intact(l)
	roots := map[int64]tlog.Hash{head.Size: head.Root}
	for _, size := range []int64{1, 2, 255, 256, 257, 512, 513, 1024, 1500} {
		root, err := tlog.TreeHash(size, l.hashes(r.context(), head))
		if err != nil {
			t.Fatal(err)
		}
		roots[size] = root
	}
	for size, root := range roots {
		for _, index := range []int64{0, size / 2, size - 1} {
			proof, err := l.Inclusion(r.context(), index, size)
			if err != nil {
				t.Fatalf("entry %d in %d: %v", index, size, err)
			}
			if err := tlog.CheckRecord(proof, size, root, index, r.get(l, index).LeafHash); err != nil {
				t.Errorf("entry %d in %d: %v", index, size, err)
			}
		}
		for old, oldRoot := range roots {
			if old > size {
				continue
			}
			proof, err := l.Consistency(r.context(), old, size)
			if err != nil {
				t.Fatalf("%d to %d: %v", old, size, err)
			}
			text, err := ParseConsistency([]byte(FormatConsistency(proof)))
			if err != nil {
				t.Fatal(err)
			}
			if err := VerifyConsistency(Checkpoint{Size: old, Root: oldRoot}, Checkpoint{Size: size, Root: root}, text); err != nil {
				t.Errorf("%d to %d: %v", old, size, err)
			}
		}
	}
	for _, row := range []struct{ index, size int64 }{{-1, 5}, {5, 5}, {0, head.Size + 1}} {
		if _, err := l.Inclusion(r.context(), row.index, row.size); !errors.Is(err, ErrRange) {
			t.Errorf("entry %d in %d: %v", row.index, row.size, err)
		}
	}
	if _, err := l.Consistency(r.context(), 0, 1); !errors.Is(err, ErrRange) {
		t.Errorf("from nothing: %v", err)
	}
	if _, err := l.Receipt(r.context(), head.Size); !errors.Is(err, ErrNotFound) {
		t.Errorf("receipt beyond the head: %v", err)
	}
}

func TestList(t *testing.T) {
	r := newRig(t)
	l := r.running()
	for i := range 6 {
		e := entry(i % 3)
		if i == 4 {
			e.Outcome, e.Action, e.Project = Refused, "key.release", ""
		}
		if _, err := waitID(r.context(), l, r.append(e)); err != nil {
			t.Fatal(err)
		}
	}
	three := int64(3)
	past, future := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	for name, row := range map[string]struct {
		filter Filter
		want   string
	}{
		"all, newest first": {Filter{}, "5 4 3 2 1 0"},
		"page":              {Filter{Limit: 2}, "5 4"},
		"next page":         {Filter{Limit: 2, Before: &three}, "2 1"},
		"object":            {Filter{Object: "workspace/1"}, "4 1"},
		"action":            {Filter{Action: "key.release"}, "4"},
		"project":           {Filter{Project: "p1"}, "5 3 2 1 0"},
		"outcome":           {Filter{Outcome: Refused}, "4"},
		"time":              {Filter{Since: past, Until: future, Object: "workspace/0"}, "3 0"},
		"too late":          {Filter{Since: future}, ""},
		"too early":         {Filter{Until: past}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			records, err := l.List(r.context(), row.filter)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, record := range records {
				got = append(got, fmt.Sprint(record.Index))
			}
			if have := strings.Join(got, " "); have != row.want {
				t.Errorf("got %s, want %s", have, row.want)
			}
		})
	}
	for name, filter := range map[string]Filter{"limit": {Limit: 1001}, "negative": {Limit: -1}, "outcome": {Outcome: "maybe"}} {
		if _, err := l.List(r.context(), filter); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := l.Get(r.context(), 6); !errors.Is(err, ErrNotFound) {
		t.Errorf("beyond the end: %v", err)
	}
}

// TestErase shows that personal data is gone and the tree still stands.
func TestErase(t *testing.T) {
	r := newRig(t)
	l := r.running()
	r.fill(l, 2)
	other := entry(2)
	other.Actor = Actor{Kind: Person, Subject: "https://idp.example|bob", Name: "Bob"}
	if _, err := waitID(r.context(), l, r.append(other)); err != nil {
		t.Fatal(err)
	}
	if record := r.get(l, 0); record.Actor.Subject != "https://idp.example|alice" || record.Personal["email"] != "alice@canary.example" {
		t.Fatalf("before: %+v", record)
	}
	err := postgres.InTx(r.context(), r.db, func(tx pgx.Tx) error {
		n, err := Erase(r.context(), tx, "https://idp.example|alice")
		if err == nil && n != 2 {
			err = fmt.Errorf("%d entries erased", n)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	record := r.get(l, 0)
	if record.Actor.Subject != "" || record.Actor.Name != "" || len(record.Personal) != 0 || len(record.Commitments) != 3 {
		t.Errorf("after: %+v", record)
	}
	if record := r.get(l, 2); record.Actor.Name != "Bob" {
		t.Errorf("somebody else lost his name: %+v", record)
	}
	r.intact(l)
	if export := string(r.export(l)); strings.Contains(export, "lice") || strings.Contains(export, "Bob") {
		t.Error("the export names a person")
	}
}

func TestWaitEndsWithContext(t *testing.T) {
	r := newRig(t)
	l := r.log()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := waitID(ctx, l, 12345); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if len(l.waiters) != 0 {
		t.Error("the wait left something behind")
	}
}

// TestChangedOpeningIsNotShown: an opening that does not open its commitment is
// somebody's invention.
func TestChangedOpeningIsNotShown(t *testing.T) {
	r := newRig(t)
	l := r.running()
	r.fill(l, 1)
	r.exec(`ALTER TABLE audit_opening DISABLE TRIGGER refuse`)
	r.exec(`UPDATE audit_opening SET openings = convert_to(replace(convert_from(openings, 'UTF8'), 'Alice', 'Mallory'), 'UTF8')`)
	if record := r.get(l, 0); record.Actor.Name != "" || record.Actor.Subject == "" {
		t.Errorf("record is %+v", record)
	}
}

// TestAnotherEntryUnderTheID: whoever writes to the database can have an entry's id stand in the log already, and delete the
// entry. Who waits for it gets no receipt for what stands there.
func TestAnotherEntryUnderTheID(t *testing.T) {
	r := newRig(t)
	l := r.log()
	stop := r.start(l)
	old := r.append(entry(0))
	if _, body, err := l.WaitID(r.context(), old); err != nil || !bytes.Contains(body, []byte("action")) {
		t.Fatalf("%s, %v", body, err)
	}
	work := &pgx.Batch{}
	gone, err := r.recorder.Queue(work, entry(1))
	if err != nil {
		t.Fatal(err)
	}
	gone.ID = old
	for _, log := range []*Log{l, r.log()} { // with its batch in memory, and from the database
		if receipt, err := log.Wait(r.context(), gone); !errors.Is(err, errTampered) {
			t.Errorf("receipt %+v, %v", receipt, err)
		}
	}
	_ = stop()
}
