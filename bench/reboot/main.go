//go:build devtee

// Command reboot measures KR6, the day on which a site reboots: 1,000 guests on 100 registered chips attest at once, without
// a certificate in their evidence, while AMD's service answers one request in 10 seconds.
//
//	requests to the vendor during the storm, which must be none
//	time of the storm against the same storm with a vendor without limits, and from an empty process
//	requests that 100 unregistered chips cause, and what they do to the p99 of registered guests
//
// Storms of both kinds alternate within one run. A guest that is refused ends the run.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/eosc-siesta/siestad/internal/lab/vendors"
)

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "bench/reboot:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	repetitions := flag.Int("repetitions", 5, "pairs of storms")
	guests := flag.Int("guests", 1000, "guests that attest at once")
	chips := flag.Int("chips", 100, "registered chips, and as many unregistered")
	flag.Parse()
	dir, err := os.MkdirTemp("", "bench-reboot-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	w, err := newWorld(ctx, dir, *guests, *chips)
	if err != nil {
		return err
	}
	defer w.close()

	limited := vendors.Limit{Every: 10 * time.Second}
	requests, restarted := 0, 0
	var ratios, restarts, tails []float64
	for i := range *repetitions + 1 {
		free, _, err := w.storm(ctx, vendors.Limit{}, false, false)
		if err != nil {
			return err
		}
		throttled, n, err := w.storm(ctx, limited, false, false)
		if err != nil {
			return err
		}
		empty, m, err := w.storm(ctx, limited, true, false)
		if err != nil {
			return err
		}
		if i == 0 {
			continue // caches, statements and the heap warm up
		}
		requests, restarted = requests+n, restarted+m
		ratios = append(ratios, float64(throttled.wall)/float64(free.wall))
		restarts = append(restarts, float64(empty.wall)/float64(free.wall))
		fmt.Printf("  %d  unlimited %7s  1 request/10 s %7s  empty process %7s\n", i, round(free.wall), round(throttled.wall), round(empty.wall))
	}
	fmt.Printf("KR6  requests to the vendor in the storms       %d   goal 0\n", requests)
	report("time, limited vendor / unlimited", "≤ 1.1", ratios)
	fmt.Printf("KR6* requests from an empty process             %d   star 0\n", restarted)
	report("time, empty process / unlimited", "≤ 1.1", restarts)

	// The first storm of strangers makes the requests; the later ones, of the same chips, must make none.
	asked := 0
	for range *repetitions {
		alone, _, err := w.storm(ctx, vendors.Limit{}, false, false)
		if err != nil {
			return err
		}
		mixed, n, err := w.storm(ctx, vendors.Limit{}, false, true)
		if err != nil {
			return err
		}
		asked += n
		tails = append(tails, float64(mixed.p99)/float64(alone.p99))
	}
	fmt.Printf("KR6* requests for %d unregistered chips        %d   star %d\n", *chips, asked, *chips)
	report("p99 of registered guests, with / without them", "≤ 1.1", tails)
	return nil
}

func report(what, goal string, all []float64) {
	slices.Sort(all)
	fmt.Printf("     %-45s  median %.2f  min %.2f  max %.2f   goal %s\n", what, all[len(all)/2], all[0], all[len(all)-1], goal)
}

func round(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
