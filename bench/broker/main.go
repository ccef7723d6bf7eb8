//go:build devtee

// Command broker measures what a key release costs, as ratios to one P-384 signature check of the standard library behind
// the same HTTP server in the same process:
//
//	KR1  server CPU per attested release: HTTP, nonce, parse, verify, facts, unseal, X-Wing HPKE, audit commit
//	KR2  releases per second on all cores, with the database and the client on them
//	KR7  server CPU per refusal, against a release, for each class of refusals
//
// Releases and calibrations alternate. The client is a process of its own, so that CPU time of this one is the server's.
// Every answer is opened with its guest's key afterwards; a run in which one does not open counts for nothing.
package main

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/eosc-siesta/siestad/internal/keybroker"
)

func main() {
	var err error
	ctx := context.Background()
	if len(os.Args) > 1 && os.Args[1] == "client" {
		err = runClient(ctx, os.Args[2:])
	} else {
		err = run(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench/broker:", err)
		os.Exit(1)
	}
}

// sample is one burst of requests.
type sample struct {
	cpu  time.Duration // of this process, per request
	rate float64       // requests per second
}

func run(ctx context.Context) error {
	repetitions := flag.Int("repetitions", 7, "pairs of calibration and release")
	guests := flag.Int("guests", 1500, "releases in one repetition")
	connections := flag.Int("connections", 32, "connections of the client")
	keep := flag.String("cpuprofile", "", "keep the CPU profile in this file")
	flag.Parse()
	debug.SetGCPercent(keybroker.Collection) // as the daemon does
	debug.SetMemoryLimit(keybroker.CollectionLimit)
	dir, err := os.MkdirTemp("", "bench-broker-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	w, err := newWorld(ctx, dir, *guests)
	if err != nil {
		return err
	}
	defer w.close()

	fmt.Printf("%d guests, %d connections, %d cores, load before: %s", *guests, *connections, runtime.NumCPU(), load())
	var calibrations, releases []sample
	for i := range *repetitions + 1 {
		c, err := w.calibrate(ctx, dir, *connections, *guests)
		if err != nil {
			return err
		}
		r, err := w.release(ctx, dir, *connections)
		if err != nil {
			return err
		}
		if i == 0 {
			continue // caches, statements and the heap warm up
		}
		calibrations, releases = append(calibrations, c), append(releases, r)
		fmt.Printf("  %d  calibration %7s %6.0f/s   release %7s %6.0f/s\n", i, c.cpu.Round(time.Microsecond), c.rate, r.cpu.Round(time.Microsecond), r.rate)
	}
	report("KR1", "server CPU per release / P-384 check", "≤ 1.40", "≤ 0.70", calibrations, releases, func(c, r sample) float64 { return float64(r.cpu) / float64(c.cpu) })
	report("KR2", "releases/s / P-384 checks/s", "≥ 0.70", "≥ 1.25", calibrations, releases, func(c, r sample) float64 { return r.rate / c.rate })
	if err := w.reportDenials(ctx, dir, *connections, min(3, *repetitions), func() (sample, error) { return w.release(ctx, dir, *connections) }); err != nil {
		return err
	}
	lowest, highest := calibrations[0].cpu, calibrations[0].cpu
	for _, c := range calibrations {
		lowest, highest = min(lowest, c.cpu), max(highest, c.cpu)
	}
	if spread := float64(highest)/float64(lowest) - 1; spread > 0.30 {
		fmt.Printf("VOID: the calibration's CPU varied by %.0f %%\n", 100*spread)
	}
	return w.profile(ctx, dir, *connections, *keep)
}

func report(id, what, goal, star string, calibrations, releases []sample, ratio func(c, r sample) float64) {
	var all []float64
	for i := range releases {
		all = append(all, ratio(calibrations[i], releases[i]))
	}
	slices.Sort(all)
	fmt.Printf("%s  %-38s  median %.2f  min %.2f  max %.2f   goal %s  star %s\n", id, what, all[len(all)/2], all[0], all[len(all)-1], goal, star)
}

func load() string {
	data, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown\n"
	}
	return string(data)
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// burst runs the client over a file of requests and returns what it took.
func (w *world) burst(ctx context.Context, requests, answers string, connections, count, status int) (sample, error) {
	self, err := os.Executable()
	if err != nil {
		return sample{}, err
	}
	runtime.GC()
	cmd := exec.CommandContext(ctx, self, "client", w.address, requests, answers, fmt.Sprint(connections), fmt.Sprint(status))
	cmd.Stderr = os.Stderr
	before := cpuTime()
	out, err := cmd.Output()
	cpu := cpuTime() - before
	if err != nil {
		return sample{}, fmt.Errorf("running the client: %w", err)
	}
	var wall time.Duration
	nanoseconds, err := strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
	wall = time.Duration(nanoseconds)
	if err != nil {
		return sample{}, fmt.Errorf("reading the client's time: %w", err)
	}
	return sample{cpu: cpu / time.Duration(count), rate: float64(count) / wall.Seconds()}, nil
}

// profile runs one more repetition under the profiler and prints where the CPU went.
func (w *world) profile(ctx context.Context, dir string, connections int, keep string) error {
	path := filepath.Join(dir, "cpu.pprof")
	if keep != "" {
		path = keep
	}
	if err := w.prepareRequests(ctx, dir); err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := pprof.StartCPUProfile(f); err != nil {
		return err
	}
	_, err = w.burst(ctx, filepath.Join(dir, "requests"), filepath.Join(dir, "answers"), connections, len(w.guests), http.StatusOK)
	pprof.StopCPUProfile()
	if err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, "go", "tool", "pprof", "-top", "-cum", "-nodecount=2000", "-nodefraction=0", path).Output()
	if err != nil {
		return fmt.Errorf("reading the profile: %w", err)
	}
	parts := []struct{ function, what string }{
		{"attest.(*Verifier).Verify", "verify the evidence"},
		{"p384.(*Key).VerifyASN1", "  of which the signature"},
		{"door.PublicKey.Seal", "HPKE seal"},
		{"door.ParseKey", "HPKE key check"},
		{"keybroker.(*Broker).consume", "consume the nonce"},
		{"keybroker.(*Broker).readStanding", "lock and read the guest, facts"},
		{"audit.(*Recorder).Queue", "encode the audit entry"},
		{"keybroker.(*Broker).writeDecision", "entry, decision, lease and blobs"},
		{"pgx.BeginTxFunc", "whole transaction"},
		{"audit.(*Log).Wait", "wait for the checkpoint"},
		{"audit.(*Log).Run", "sequencer"},
		{"keybroker.envelope.open", "unwrap the key"},
		{"door.DecodeGrantRequest", "decode the request"},
		{"encoding/json.Marshal", "encode JSON, all places"},
		{"runtime.gcBgMarkWorker", "garbage collector"},
		{"Syscall6", "system calls"},
	}
	fmt.Println("where the CPU of a release goes (cumulative, parts overlap):")
	for _, p := range parts {
		for line := range strings.SplitSeq(string(out), "\n") {
			fields := strings.Fields(line)
			if len(fields) >= 6 && strings.HasSuffix(strings.Join(fields[5:], " "), p.function) {
				fmt.Printf("  %7s  %s\n", fields[4], p.what)
				break
			}
		}
	}
	return nil
}
