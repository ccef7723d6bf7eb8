package flow

import (
	"encoding/json"
	"errors"
	"regexp"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/eosc-siesta/siestad/internal/postgres"
	"github.com/eosc-siesta/siestad/internal/postgres/pgtest"
)

func TestQueriesPrepare(t *testing.T) {
	conn, err := pgtest.New(t).Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	named := regexp.MustCompile(`@(\w+)`)
	for name, sql := range queries {
		seen := map[string]string{}
		positional := named.ReplaceAllStringFunc(sql, func(m string) string {
			if seen[m] == "" {
				seen[m] = "$" + string(rune('1'+len(seen)))
			}
			return seen[m]
		})
		if len(seen) > 9 {
			t.Fatalf("%s has more than nine parameters: number them properly here", name)
		}
		if _, err := conn.Conn().Prepare(t.Context(), "", positional); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestLostAnswerOfACommit: a step's success is committed and its worker never hears of it. Whatever it writes next about
// that step is refused; the flow goes on where it stands, with what the step left.
func TestLostAnswerOfACommit(t *testing.T) {
	db := pgtest.New(t)
	r, err := New(Config{DB: db})
	if err != nil {
		t.Fatal(err)
	}
	type made struct{ ID string }
	if err := Register(r, Flow[made]{Kind: "lost", Steps: []Step[made]{{Name: "one"}, {Name: "two"}}}); err != nil {
		t.Fatal(err)
	}
	var id ID
	if err := postgres.InTx(t.Context(), db, func(tx pgx.Tx) (err error) {
		id, err = Start(t.Context(), tx, r, "lost", "w/1", "", made{})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	var epoch int64
	if err := db.QueryRow(t.Context(), `UPDATE flow SET epoch = epoch + 1, holder = 'me', lease_until = now() + interval '1 hour', intent_at = now()
		WHERE id = $1 RETURNING epoch`, id).Scan(&epoch); err != nil {
		t.Fatal(err)
	}
	worker := func() *held {
		h := &held{plan: r.plans["lost"], ctx: t.Context()}
		h.ID, h.Epoch, h.Step, h.Data = id, epoch, "one", json.RawMessage(`{"ID":""}`)
		return h
	}
	if _, err := r.succeed(worker(), 0, json.RawMessage(`{"ID":"made"}`), nil); err != nil {
		t.Fatal(err)
	}
	late := worker() // as if succeed had said that the connection broke
	for name, write := range map[string]func() error{
		"retry":   func() error { return r.retry(late, 0, nil, errors.New("connection reset")) },
		"succeed": func() error { _, err := r.succeed(late, 0, json.RawMessage(`{"ID":"other"}`), nil); return err },
		"turn":    func() error { _, err := r.turn(late, 0, &Problem{Code: "x"}, nil); return err },
		"intend":  func() error { return r.intend(late) },
	} {
		if err := write(); !errors.Is(err, ErrLost) {
			t.Errorf("%s: %v", name, err)
		}
	}
	var step, data string
	if err := db.QueryRow(t.Context(), `SELECT step, data->>'ID' FROM flow WHERE id = $1`, id).Scan(&step, &data); err != nil || step != "two" || data != "made" {
		t.Errorf("the flow stands at %s with %q, %v", step, data, err)
	}
}

func TestBackoffIsBounded(t *testing.T) {
	for n := range 100 {
		if d := backoff(n); d <= 0 || d.Seconds() > 30 {
			t.Fatalf("attempt %d waits %s", n, d)
		}
	}
}
