// Command mutate tells how much of what a package does its tests pin. It spoils the package in many small ways, one at a
// time, and counts how many of these mutants the package's own tests notice:
//
//	go run ./scripts/mutate ./internal/attest ./internal/keybroker
//
// The mutants: a comparison negated or with the other boundary, && for || and back, other arithmetic, a constant one off,
// a boolean flipped, a guard or a case that is never taken, a call or an assignment taken away. All are compiled into one
// test binary and chosen by an environment variable, so nothing is compiled twice; each meets only the tests that reach
// it. Now and then the same tests run without the mutant: if one of these controls fails, the tests are not steady and the
// figures do not count. Tests that need guests (tag qemu) take no part.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/eosc-siesta/siestad/internal/postgres/pgtest"
)

// every is how many mutants one control stands for.
const every = 25

type options struct {
	tags, files string
	sample      int
	seed        uint64
	workers     int
	longest     time.Duration
}

func main() {
	var o options
	flag.StringVar(&o.tags, "tags", "devtee", "build `tags`")
	flag.StringVar(&o.files, "files", "", "only mutants in files, or at file:line, that match this `expression`")
	flag.IntVar(&o.sample, "sample", 0, "judge `n` mutants of each package, chosen at random; 0 is all")
	flag.Uint64Var(&o.seed, "seed", 1, "seed of the choice")
	flag.IntVar(&o.workers, "workers", 2, "mutants at a time")
	flag.DurationVar(&o.longest, "longest", time.Minute, "leave out tests that need more processor `time` than this")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, o, flag.Args())
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutate:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options, packages []string) (err error) {
	only, err := regexp.Compile(o.files)
	if err != nil {
		return err
	}
	tmp, err := os.MkdirTemp("", "mutate-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	server, err := database(ctx)
	if err != nil {
		return err
	}
	for i, path := range packages {
		dir := filepath.Join(tmp, fmt.Sprint(i))
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		if err := one(ctx, o, path, dir, only, server); err != nil {
			return err
		}
	}
	return nil
}

// database starts the server that all test processes share, with the migrated template in it. What it holds is not worth
// a write to the disk.
func database(ctx context.Context) (server string, err error) {
	dsn, _, err := pgtest.Database(ctx, true)
	if err != nil {
		return "", err
	}
	conn, err := pgx.Connect(ctx, strings.Replace(dsn, "pool_max_conns=16", "", 1))
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx)
	for _, sql := range []string{"ALTER SYSTEM SET fsync = off", "ALTER SYSTEM SET full_page_writes = off", "SELECT pg_reload_conf()"} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return "", err
		}
	}
	return pgtest.Borrow + "=" + conn.Config().Host, nil
}

func one(ctx context.Context, o options, path, dir string, only *regexp.Regexp, server string) error {
	p, err := load(ctx, path, o.tags)
	if err != nil {
		return err
	}
	binary, err := p.build(ctx, dir, o.tags)
	if err != nil {
		return err
	}
	t := &tests{binary: binary, dir: p.dir, tmp: dir, env: []string{server}}
	fmt.Fprintf(os.Stderr, "%s: %d mutants; running each test once\n", p.path, len(p.mutants))
	if err = t.survey(ctx, len(p.mutants), o.longest, func(x test) {
		fmt.Fprintf(os.Stderr, "  %s %.2fs, processor %.2fs\n", x.name, x.took.Seconds(), x.cost.Seconds())
	}); err != nil {
		return err
	}
	chosen := slices.DeleteFunc(slices.Clone(p.mutants), func(m mutant) bool {
		return !only.MatchString(fmt.Sprintf("%s:%d", filepath.Base(m.pos.Filename), m.pos.Line))
	})
	found := len(chosen)
	rand.New(rand.NewPCG(o.seed, 0)).Shuffle(found, func(i, j int) { chosen[i], chosen[j] = chosen[j], chosen[i] }) //nolint:gosec // a sample that can be drawn again
	if o.sample > 0 && o.sample < found {
		chosen = chosen[:o.sample]
	}
	done, controls, failed, err := judgeAll(ctx, t, chosen, o.workers)
	if err != nil {
		return err
	}
	report(p.path[strings.LastIndex(p.path, "/")+1:], done, found)
	fmt.Printf("controls: %d, of which %d failed\n", controls, failed)
	if failed > 0 {
		return fmt.Errorf("%s: tests fail without a mutant", p.path)
	}
	return nil
}

// judgeAll judges the mutants in the order in which they were drawn, so that those it has done when it is told to stop are
// a sample. With each of some it judges a control.
func judgeAll(ctx context.Context, t *tests, chosen []mutant, workers int) (done []mutant, controls, failed int, err error) {
	errs := make([]error, workers)
	var mu sync.Mutex
	var wg sync.WaitGroup
	next := 0
	take := func() int {
		mu.Lock()
		defer mu.Unlock()
		if ctx.Err() != nil || next == len(chosen) {
			return len(chosen)
		}
		next++
		return next - 1
	}
	for w := range workers {
		wg.Go(func() {
			for i := take(); i < len(chosen) && errs[w] == nil; i = take() {
				m := &chosen[i]
				if m.fate, errs[w] = t.judge(m.id, false); m.fate != killed {
					fmt.Fprintf(os.Stderr, "  %d of %d: %s\n", i, len(chosen), m)
				}
				if i%every != 0 || errs[w] != nil {
					continue
				}
				var fate string
				fate, errs[w] = t.judge(m.id, true)
				mu.Lock()
				controls++
				if fate == killed || fate == timedOut {
					failed++
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return chosen[:next], controls, failed, errors.Join(errs...)
}

// report prints what lived, then the figures by file and in all.
func report(name string, done []mutant, found int) {
	type count map[string]int
	files, total := map[string]count{}, count{}
	slices.SortFunc(done, func(a, b mutant) int { return a.id - b.id })
	for _, m := range done {
		file := filepath.Base(m.pos.Filename)
		if files[file] == nil {
			files[file] = count{}
		}
		files[file][m.fate]++
		total[m.fate]++
		if m.fate != killed {
			fmt.Println(m)
		}
	}
	figures := func(name string, c count) (n int, share float64) {
		n = c[killed] + c[timedOut] + c[survived] + c[unseen]
		share = float64(c[killed]+c[timedOut]) / float64(max(n, 1))
		fmt.Printf("%-28s %5d mutants %5d killed %4d timed out %4d survived %4d not reached  %.1f %%\n",
			name, n, c[killed], c[timedOut], c[survived], c[unseen], 100*share)
		return n, share
	}
	for _, file := range slices.Sorted(maps.Keys(files)) {
		figures(file, files[file])
	}
	if n, share := figures(name, total); n < found {
		fmt.Printf("a sample of %d of %d: %.1f %% ± %.1f (95 %%)\n", n, found, 100*share, 196*math.Sqrt(share*(1-share)/float64(max(n, 1))))
	}
}
