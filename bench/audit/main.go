// Command audit measures the audit log against what the database does without
// it: AU1 and AU5. Every figure is a ratio within one run, of alternated
// repetitions, on a private cluster with default durable settings; the log is
// verified at the end, or the figures do not count. The rate depends on the
// disk and on whoever else uses the machine; processor time per operation, the
// database's included, is printed beside it.
package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/postgres"
	"github.com/eosc-siesta/siestad/internal/postgres/pgtest"
)

func main() {
	writers := flag.Int("writers", 64, "concurrent writers")
	repetitions := flag.Int("repetitions", 5, "alternated repetitions")
	span := flag.Duration("span", 2*time.Second, "length of one measurement")
	decide := flag.Bool("decide", false, "also compare ways to find entries without an index (ADR 4)")
	only := flag.String("only", "", "measure only rows whose id and name contain this")
	flag.Parse()
	if err := run(context.Background(), *writers, *repetitions, *span, *decide, *only); err != nil {
		fmt.Fprintln(os.Stderr, "bench/audit:", err)
		os.Exit(1)
	}
}

// bench is one database with a running log.
type bench struct {
	db      *pgxpool.Pool
	log     *audit.Log
	writers int
	span    time.Duration
	turn    int
}

// act is one operation of one writer; it reports an error to end the run.
type act func(ctx context.Context, writer, n int) error

func run(ctx context.Context, writers, repetitions int, span time.Duration, decide bool, only string) error {
	dsn, drop, err := pgtest.Database(ctx, true)
	if err != nil {
		return err
	}
	defer func() { _ = drop() }()
	db, err := postgres.Open(ctx, strings.ReplaceAll(dsn, "pool_max_conns=16", fmt.Sprintf("pool_max_conns=%d", writers+4)))
	if err != nil {
		return err
	}
	defer db.Close()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return err
	}
	const origin = "bench.example/log"
	l, err := audit.New(ctx, audit.Config{DB: db, Origin: origin, Signer: private})
	if err != nil {
		return err
	}
	stop, stopped := context.WithCancel(ctx)
	defer stopped()
	ended := make(chan error, 1)
	go func() { ended <- l.Run(stop) }()

	b := &bench{db: db, log: l, writers: writers, span: span}
	if err := b.prepare(ctx); err != nil {
		return err
	}
	load, before := loadAverage(), time.Now()
	fmt.Printf("load average %s before, %d writers, %d repetitions of %v\n\n", load, writers, repetitions, span)
	fmt.Printf("%-5s %-50s %7s %7s %7s   %s\n", "id", "figure", "min", "median", "max", "goal")
	for _, row := range b.rows(decide) {
		if !strings.Contains(row.id+" "+row.name, only) {
			continue
		}
		if err := b.compare(ctx, row, repetitions); err != nil {
			return err
		}
	}
	stopped()
	if err := <-ended; err != nil {
		return err
	}
	verifier, err := audit.NewVerifier(audit.VerifierKey(origin, public))
	if err != nil {
		return err
	}
	var export bytes.Buffer
	if err := l.Export(ctx, &export); err != nil {
		return err
	}
	start := time.Now()
	sum, err := verifier.VerifyExport(&export, nil)
	if err != nil {
		return fmt.Errorf("the figures do not count: %w", err)
	}
	took := time.Since(start)
	fmt.Printf("\nthe log is intact: %d entries under %d signed heads, verified at %.0f entries/s; whole run %v\n",
		sum.Checkpoint.Size, sum.Batches, float64(sum.Checkpoint.Size)/took.Seconds(), time.Since(before).Round(time.Second))
	return nil
}

// comparison is one row of the table: figure over reference.
type comparison struct {
	id, name, goal    string
	figure, reference act
}

func (b *bench) rows(decide bool) []comparison {
	rows := []comparison{
		{"AU1", "lane A, queue (denials) / plain insert+commit", ">= 2.0", b.refuse, b.plain},
		{"AU1", "lane A, insert and wait / plain insert+commit", "(none)", b.appendAndWait, b.plain},
		{"AU5", "state change with entry / state change alone", ">= 0.80", b.changeWithEntry, b.change},
	}
	if decide {
		rows = append(rows,
			comparison{"ADR4", "entry into the inbox / state change alone", "", b.variant(sqlInbox), b.change},
			comparison{"ADR4", "entry with xid and its index / state change alone", "", b.variant(sqlHorizon), b.change},
			comparison{"ADR4", "entry and pending id / state change alone", "", b.variant(sqlPending), b.change},
		)
	}
	return rows
}

// result is one measurement.
type result struct {
	rate float64       // operations per second
	cost time.Duration // processor time per operation, database included
}

func (b *bench) compare(ctx context.Context, row comparison, repetitions int) error {
	// One unmeasured turn each: statements prepared, caches warm.
	for _, f := range []act{row.reference, row.figure} {
		if _, err := b.measure(ctx, f, b.span/2); err != nil {
			return err
		}
	}
	var ratios, references, figures, costs, referenceCosts, costRatios []float64
	for range repetitions {
		reference, err := b.measure(ctx, row.reference, b.span)
		if err != nil {
			return err
		}
		figure, err := b.measure(ctx, row.figure, b.span)
		if err != nil {
			return err
		}
		ratios = append(ratios, figure.rate/reference.rate)
		references, figures = append(references, reference.rate), append(figures, figure.rate)
		costRatios = append(costRatios, float64(reference.cost)/float64(figure.cost))
		costs, referenceCosts = append(costs, float64(figure.cost.Microseconds())), append(referenceCosts, float64(reference.cost.Microseconds()))
	}
	for _, values := range [][]float64{ratios, references, figures, costs, referenceCosts, costRatios} {
		slices.Sort(values)
	}
	mid, last := repetitions/2, repetitions-1
	note := ""
	if spread := references[last]/references[0] - 1; spread > 0.3 {
		note = fmt.Sprintf("  VOID: reference varied by %.0f %%", 100*spread)
	}
	fmt.Printf("%-5s %-50s %7.2f %7.2f %7.2f   %-8s (%.0f/s over %.0f/s)%s\n",
		row.id, row.name, ratios[0], ratios[mid], ratios[last], row.goal, figures[mid], references[mid], note)
	fmt.Printf("%-5s %-50s %7.2f %7.2f %7.2f   %-8s (%.0f us against %.0f us)\n",
		"", "  the same in processor time per operation", costRatios[0], costRatios[mid], costRatios[last], "", costs[mid], referenceCosts[mid])
	return nil
}

// measure runs all writers for a span.
func (b *bench) measure(ctx context.Context, f act, span time.Duration) (result, error) {
	var done atomic.Int64
	var failed error
	var once sync.Once
	var wait sync.WaitGroup
	before, err := b.processor(ctx)
	if err != nil {
		return result{}, err
	}
	start := time.Now()
	b.turn++
	base := b.turn << 32
	for w := range b.writers {
		wait.Go(func() {
			for n := base; time.Since(start) < span; n++ {
				if err := f(ctx, w, n); err != nil {
					once.Do(func() { failed = err })
					return
				}
				done.Add(1)
			}
		})
	}
	wait.Wait()
	took := time.Since(start)
	after, err := b.processor(ctx)
	if err != nil {
		return result{}, err
	}
	n := done.Load()
	if failed == nil && n == 0 {
		failed = errors.New("nothing was done")
	}
	if failed != nil {
		return result{}, failed
	}
	return result{float64(n) / took.Seconds(), (after - before) / time.Duration(n)}, nil
}

// body is about the 400 bytes that an entry's body has.
var body = bytes.Repeat([]byte("0123456789abcdef"), 25)

func entry(writer, n int) audit.Entry {
	return audit.Entry{
		Actor:  audit.Actor{Kind: audit.Person, Subject: "https://idp.example|0123456789abcdef", Name: "A Person"},
		Action: "workspace.update", Object: fmt.Sprintf("workspace/01j%023d", writer), Project: "project", Outcome: audit.Success,
		Request: "req-0123456789abcdef", Details: map[string]any{"n": n, "from": "creating", "to": "ready"},
	}
}

func (b *bench) prepare(ctx context.Context) error {
	for _, sql := range []string{
		`CREATE TABLE bench_plain (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body bytea NOT NULL)`,
		`CREATE TABLE bench_state (id int PRIMARY KEY, state bigint NOT NULL, at timestamptz NOT NULL DEFAULT now()) WITH (fillfactor = 70)`,
		`INSERT INTO bench_state (id, state) SELECT n, 0 FROM generate_series(0, 6399) n`,
		`CREATE TABLE bench_inbox (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body bytea NOT NULL)`,
		`CREATE TABLE bench_horizon (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, xid xid8 NOT NULL DEFAULT pg_current_xact_id(), body bytea NOT NULL)`,
		`CREATE INDEX ON bench_horizon (xid, id)`,
		`CREATE TABLE bench_entry (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body bytea NOT NULL)`,
		`CREATE TABLE bench_pending (id bigint PRIMARY KEY)`,
	} {
		if _, err := b.db.Exec(ctx, sql); err != nil {
			return fmt.Errorf("preparing: %w", err)
		}
	}
	_, err := b.log.Refuse(ctx, entry(0, 0)) // the log leads from here on
	return err
}

func (b *bench) plain(ctx context.Context, _, _ int) error {
	_, err := b.db.Exec(ctx, `INSERT INTO bench_plain (body) VALUES ($1)`, body)
	return err
}

func (b *bench) refuse(ctx context.Context, writer, n int) error {
	_, err := b.log.Refuse(ctx, entry(writer, n))
	return err
}

func (b *bench) appendAndWait(ctx context.Context, writer, n int) error {
	var id audit.ID
	err := postgres.InTx(ctx, b.db, func(tx pgx.Tx) (err error) {
		id, err = b.log.Append(ctx, tx, entry(writer, n))
		return err
	})
	if err == nil {
		_, _, err = b.log.WaitID(ctx, id)
	}
	return err
}

// update is a state change as the services make it. Each writer has 100 rows.
func update(ctx context.Context, tx pgx.Tx, writer, n int) error {
	tag, err := tx.Exec(ctx, `UPDATE bench_state SET state = state + 1, at = now() WHERE id = $1 AND state >= $2`, writer%64*100+n%100, 0)
	if err == nil && tag.RowsAffected() != 1 {
		err = errors.New("state change hit no row")
	}
	return err
}

func (b *bench) change(ctx context.Context, writer, n int) error {
	return postgres.InTx(ctx, b.db, func(tx pgx.Tx) error { return update(ctx, tx, writer, n) })
}

func (b *bench) changeWithEntry(ctx context.Context, writer, n int) error {
	return postgres.InTx(ctx, b.db, func(tx pgx.Tx) error {
		if err := update(ctx, tx, writer, n); err != nil {
			return err
		}
		_, err := b.log.Append(ctx, tx, entry(writer, n))
		return err
	})
}

const (
	sqlInbox   = `INSERT INTO bench_inbox (body) VALUES ($1)`
	sqlHorizon = `INSERT INTO bench_horizon (body) VALUES ($1)`
	sqlPending = `WITH e AS (INSERT INTO bench_entry (body) VALUES ($1) RETURNING id) INSERT INTO bench_pending SELECT id FROM e`
)

// variant is a state change with an entry stored in one of three ways, without
// what the sequencer does later.
func (b *bench) variant(sql string) act {
	return func(ctx context.Context, writer, n int) error {
		return postgres.InTx(ctx, b.db, func(tx pgx.Tx) error {
			if err := update(ctx, tx, writer, n); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, sql, body)
			return err
		})
	}
}

func loadAverage() string {
	var info syscall.Sysinfo_t
	if err := syscall.Sysinfo(&info); err != nil {
		return "unknown"
	}
	return fmt.Sprintf("%.2f", float64(info.Loads[0])/65536)
}
