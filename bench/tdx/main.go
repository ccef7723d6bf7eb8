// Command tdx measures what judging a TD quote costs beside the signature that
// it cannot do without: KR5. Every figure is a ratio within one run, of alternated
// repetitions, on a genuine quote with Intel's collateral of its time; each verdict
// is checked, or the figures do not count.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/eosc-siesta/siestad/internal/attest"
)

func main() {
	repetitions := flag.Int("repetitions", 21, "alternated repetitions")
	operations := flag.Int("operations", 200, "operations in one repetition")
	data := flag.String("testdata", "internal/attest/testdata/tdx", "`directory` of the genuine quote and its collateral")
	flag.Parse()
	if err := run(*repetitions, *operations, *data); err != nil {
		fmt.Fprintln(os.Stderr, "bench/tdx:", err)
		os.Exit(1)
	}
}

// act is one operation.
type act func() error

func run(repetitions, operations int, data string) error {
	if repetitions < 1 || operations < 1 {
		return errors.New("nothing to measure")
	}
	signature, err := oneSignature()
	if err != nil {
		return err
	}
	warm, cold, err := verdicts(data)
	if err != nil {
		return err
	}
	acts := []act{signature, warm, cold}
	spent := make([][]time.Duration, len(acts))
	for range repetitions {
		for i, a := range acts {
			d, err := processorTime(operations, a)
			if err != nil {
				return err
			}
			spent[i] = append(spent[i], d/time.Duration(operations))
		}
	}
	unit := median(spent[0])
	fmt.Printf("%-4s %-44s %10s %8s  %s\n", "id", "operation", "CPU", "x P-256", "floor")
	for i, row := range []struct{ id, name, floor string }{
		{"", "P-256 verify", ""},
		{"KR5", "verdict on a TD quote, warm", "<= 2.5"},
		{"", "verdict on a TD quote, first of its platform", ""},
	} {
		// The ratio is the median of ratios, each of two neighbours in time.
		var ratios []float64
		for n := range spent[i] {
			ratios = append(ratios, float64(spent[i][n])/float64(spent[0][n]))
		}
		slices.Sort(ratios)
		m := median(spent[i])
		fmt.Printf("%-4s %-44s %10s %8.2f  %s\n", row.id, row.name, m.Round(100*time.Nanosecond), ratios[len(ratios)/2], row.floor)
	}
	if unit == 0 {
		return errors.New("the clock is too coarse: ask for more operations")
	}
	return nil
}

func oneSignature() (act, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	digest := sha256.Sum256([]byte("digest"))
	signature, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	return func() error {
		if !ecdsa.VerifyASN1(&key.PublicKey, digest[:], signature) {
			return errors.New("a good signature was refused")
		}
		return nil
	}, nil
}

// verdicts are those of a Verifier that knows the platform, and of one that knows
// nothing.
func verdicts(data string) (warm, cold act, err error) {
	quote, err := os.ReadFile(filepath.Join(data, "v4-quote-uptodate.dat"))
	if err != nil {
		return nil, nil, fmt.Errorf("reading quote: %w", err)
	}
	document, err := os.ReadFile(filepath.Join(data, "v4-quote-uptodate-collateral.json"))
	if err != nil {
		return nil, nil, fmt.Errorf("reading collateral: %w", err)
	}
	intel, err := attest.ParseTDXCollateral(document)
	if err != nil {
		return nil, nil, err
	}
	ev, col := attest.Evidence{TEE: attest.TDX, Report: quote}, attest.Collateral{TDX: intel}
	at := time.Date(2025, 6, 25, 0, 0, 0, 0, time.UTC)
	pol, err := policy(ev, col, at)
	if err != nil {
		return nil, nil, err
	}
	var v attest.Verifier
	judged := func(verify func(attest.Evidence, attest.Collateral, attest.Policy, time.Time) (*attest.Result, error)) act {
		return func() error {
			if _, err := verify(ev, col, pol, at); err != nil {
				return fmt.Errorf("judging a genuine quote: %w", err)
			}
			return nil
		}
	}
	return judged(v.Verify), judged(attest.Verify), nil
}

// policy admits the guest of the quote: fields by their offsets in a version 4
// quote (Intel TDX DCAP Quoting Library API, appendix A.3), and the platform by
// what a first verdict says of it.
func policy(ev attest.Evidence, col attest.Collateral, at time.Time) (attest.Policy, error) {
	const body, xfam, mrtd, rtmrs, reportData, size = 48, 128, 136, 328, 520, 48
	if len(ev.Report) < body+reportData+64 {
		return attest.Policy{}, errors.New("the quote is too short")
	}
	b := ev.Report[body:]
	p := attest.NovaTDXPolicy()
	p.MRTDs = [][]byte{b[mrtd : mrtd+size]}
	for i := range p.RTMRs {
		p.RTMRs[i].Values = [][]byte{b[rtmrs+i*size : rtmrs+(i+1)*size]}
	}
	p.XFAM = attest.MaskedBits{Mask: ^uint64(0), Value: binary.LittleEndian.Uint64(b[xfam:])}
	pol := attest.Policy{ReportData: [64]byte(b[reportData : reportData+64]), TDX: &p}
	_, err := attest.Verify(ev, col, pol, at)
	var refusal *attest.Refusal
	if !errors.As(err, &refusal) || refusal.Code != attest.CodeChip {
		return pol, fmt.Errorf("asking for the platform: %w", err)
	}
	for _, c := range refusal.Checks {
		if c.Code == attest.CodeChip && c.Status == attest.Failed {
			ppid, err := hex.DecodeString(c.Got)
			if err != nil {
				return pol, fmt.Errorf("asking for the platform: %w", err)
			}
			p.Platforms = [][]byte{ppid}
		}
	}
	return pol, nil
}

// processorTime is what the process spends on n operations, whoever else uses the
// machine.
func processorTime(n int, a act) (time.Duration, error) {
	before, err := used()
	if err != nil {
		return 0, err
	}
	for range n {
		if err := a(); err != nil {
			return 0, err
		}
	}
	after, err := used()
	return after - before, err
}

func used() (time.Duration, error) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0, fmt.Errorf("reading processor time: %w", err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}

func median(d []time.Duration) time.Duration {
	s := slices.Sorted(slices.Values(d))
	return s[len(s)/2]
}
