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

// TestSpanIsNotBelieved: a database that gives microseconds of the past, or a number that there is not, gives nothing.
func TestSpanIsNotBelieved(t *testing.T) {
	r := newRig(t)
	r.exec(`DROP TABLE audit_program`)
	r.exec(`CREATE TABLE audit_program (number smallint, until bigint, given bigint)`)
	r.exec(`CREATE FUNCTION lie() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.until := NEW.given; RETURN NEW; END $$`)
	r.exec(`CREATE TRIGGER lie BEFORE UPDATE ON audit_program FOR EACH ROW EXECUTE FUNCTION lie()`)
	r.db.Reset() // what was prepared for the table of before
	now := time.Now()
	end := now.Add(spanLength).UnixMicro()
	for _, row := range []struct {
		number, until int64
		good          bool
	}{
		{3, end, true}, {3, end - 1, false}, {3, end - spanLength.Microseconds(), false}, {1 << numberBits, end, false}, {-1, end, false},
	} {
		r.exec(`DELETE FROM audit_program`)
		r.exec(`INSERT INTO audit_program VALUES ($1, 0, $2)`, row.number, row.until)
		p, err := newRecorder(testKey, span{})
		if err != nil {
			t.Fatal(err)
		}
		if err := p.take(r.context(), r.db, now); (err == nil) != row.good || err != nil && !errors.Is(err, errTampered) {
			t.Errorf("number %d up to %d: %v", row.number, row.until-end, err)
		}
	}
}
