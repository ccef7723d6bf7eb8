package audit

import (
	"errors"
	"testing"
	"time"
)

// TestNoTwoProgramsMakeOneID: more programs than there are numbers run at once, and
// make ids at the same microseconds, one of them long after it was last given any.
func TestNoTwoProgramsMakeOneID(t *testing.T) {
	r := newRig(t)
	first := r.recorder.span.number
	now := time.Now()
	seen := map[ID]bool{}
	shared := false
	for range 1<<numberBits + 10 {
		program := r.program()
		shared = shared || program.span.number == first
		for _, at := range []time.Time{now, now, now.Add(spanLength / 3), now.Add(spanLength), now.Add(3 * spanLength)} {
			id, err := program.next(at)
			if err != nil {
				t.Fatal(err)
			}
			if seen[id] {
				t.Fatalf("id %d is made twice", id)
			}
			seen[id] = true
		}
	}
	if !shared {
		t.Error("no number was given again, so nothing was tried")
	}
	for _, at := range []time.Time{now, now.Add(3 * spanLength)} {
		if id, err := r.recorder.next(at); err != nil || seen[id] {
			t.Errorf("the first program makes id %d, which another has made, or none: %v", id, err)
		}
	}
}

// TestIDsGrow, also when the clock goes back and another number is taken.
func TestIDsGrow(t *testing.T) {
	r := newRig(t)
	now := time.Now()
	var last ID
	for _, at := range []time.Time{now, now, now.Add(time.Hour), now, now.Add(-time.Hour)} {
		id, err := r.recorder.next(at)
		if err != nil || id <= last || id < firstID {
			t.Errorf("id %d after %d: %v", id, last, err)
		}
		last = id
		if err := r.recorder.take(r.context(), r.db, at); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSpanEnds: what was not given is not used.
func TestSpanEnds(t *testing.T) {
	if id, err := (&span{}).next(time.Now()); !errors.Is(err, errUsedUp) {
		t.Errorf("the zero span makes id %d: %v", id, err)
	}
	s := span{number: 5, last: 99, follow: 101, until: 103}
	for i, at := range []int64{100, 500, 500, 500} {
		id, err := s.next(time.UnixMicro(at))
		if want := ID(100+i)<<numberBits | 5; i < 3 && (id != want || err != nil) {
			t.Errorf("id %d, want %d: %v", id, want, err)
		}
		if i == 3 && !errors.Is(err, errUsedUp) {
			t.Errorf("behind its end it makes id %d: %v", id, err)
		}
	}
}

// TestRunTakesSpans: the ids of a program that runs the log follow the clock.
func TestRunTakesSpans(t *testing.T) {
	r := newRig(t)
	l := r.log()
	ago := time.Now().Add(-3 * spanLength).UnixMicro()
	l.span.last, l.span.follow = ago, ago
	r.start(l)
	ctx := r.context()
	for {
		if id, err := l.next(time.Now()); err != nil {
			t.Fatal(err)
		} else if int64(id)>>numberBits > ago+spanLength.Microseconds() {
			return
		}
		if err := r.db.Ping(ctx); err != nil {
			t.Fatalf("ids stay behind the clock: %v", err)
		}
	}
}
