//go:build devtee

package guest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/eosc-siesta/siestad/internal/door"
	"github.com/eosc-siesta/siestad/internal/lab/softpsp"
	"github.com/eosc-siesta/siestad/internal/lab/softtd"
)

// TestSimulatedHardwareAnswers asks what plays the hardware of either maker. An answer to a question of an earlier boot is
// still in the port and is passed over.
func TestSimulatedHardwareAnswers(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	psp, err := softpsp.New(softpsp.Config{Now: now})
	if err != nil {
		t.Fatal(err)
	}
	boot := softtd.Boot{Kernel: [48]byte{1}, Line: "siesta.gen=1", Initrd: [48]byte{2}}
	log, _ := boot.EventLog()
	td := func(version int) func(io.ReadWriter) error {
		p, err := softtd.New(softtd.Config{Version: version, Now: now})
		if err != nil {
			t.Fatal(err)
		}
		return func(conn io.ReadWriter) error { return p.Serve(conn, func() (softtd.Boot, error) { return boot, nil }) }
	}
	for name, row := range map[string]struct {
		serve func(io.ReadWriter) error
		tee   string
		at    int
		log   []byte
	}{
		"SEV-SNP": {func(conn io.ReadWriter) error {
			return psp.Serve(conn, func() ([48]byte, error) { return [48]byte{1}, nil })
		}, "sev-snp", 0x50, nil},
		"TDX":            {td(4), "tdx", softtd.ReportDataAt, log},
		"TDX, version 5": {td(5), "tdx", softtd.ReportDataAt + 6, log},
	} {
		t.Run(name, func(t *testing.T) {
			fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			host := os.NewFile(uintptr(fds[1]), "host")
			done := make(chan error, 1)
			go func() { done <- row.serve(host) }()
			// The question of an earlier boot, whose answer nobody has read.
			old, err := json.Marshal(map[string]string{"report_data": string(bytes.Repeat([]byte("ab"), 64))})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := unix.Write(fds[0], append(old, '\n')); err != nil {
				t.Fatal(err)
			}
			data := [64]byte{7, 63: 9}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second) // nothing is answered, if this is broken
			defer cancel()
			ev, err := ask(ctx, fds[0], data)
			if err != nil {
				t.Fatal(err)
			}
			if ev.TEE != row.tee || !bytes.Equal(ev.Report[row.at:row.at+64], data[:]) || !bytes.Equal(ev.EventLog, row.log) || (len(ev.Certificates) > 0) != (row.tee == "sev-snp") {
				t.Errorf("%s, %d bytes of report, %d of certificates, %d of log", ev.TEE, len(ev.Report), len(ev.Certificates), len(ev.EventLog))
			}
			_, err = door.DecodeGrantRequest(grantRequest(t, ev))
			if err != nil {
				t.Errorf("the broker's door: %v", err)
			}
			if err := errors.Join(unix.Close(fds[0]), <-done, host.Close()); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestBoundTo: evidence of a form that is not known is bound to nothing, however long it is.
func TestBoundTo(t *testing.T) {
	long := make([]byte, 8000)
	four, five := append([]byte{4, 0}, long...), append([]byte{5, 0}, long...)
	for name, row := range map[string]struct {
		ev   door.Evidence
		want bool
	}{
		"a report":           {door.Evidence{TEE: "sev-snp", Report: long[:snpReportSize]}, true},
		"a longer one":       {door.Evidence{TEE: "sev-snp", Report: long}, false},
		"a quote":            {door.Evidence{TEE: "tdx", Report: four}, true},
		"of version 5":       {door.Evidence{TEE: "tdx", Report: five}, true},
		"of version 0":       {door.Evidence{TEE: "tdx", Report: long}, false},
		"a quote cut":        {door.Evidence{TEE: "tdx", Report: four[:0x30+0x208+63]}, false},
		"of version 5, cut":  {door.Evidence{TEE: "tdx", Report: five[:0x30+6+0x208+63]}, false},
		"nothing":            {door.Evidence{TEE: "tdx"}, false},
		"of another TEE":     {door.Evidence{TEE: "sample", Report: four}, false},
		"a quote as SEV-SNP": {door.Evidence{TEE: "sev-snp", Report: four}, false},
	} {
		if got := boundTo(row.ev); (len(got) == 64) != row.want || (got != nil) != row.want {
			t.Errorf("%s: bound to %d bytes", name, len(got))
		}
	}
}

func grantRequest(t *testing.T, ev door.Evidence) []byte {
	t.Helper()
	k, err := door.GenerateKey(door.KEMX25519)
	if err != nil {
		t.Fatal(err)
	}
	out, err := json.Marshal(door.GrantRequest{Challenge: "c", Evidence: ev, HPKE: k.Public(), SigningKey: make([]byte, 32)})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
