package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/eosc-siesta/siestad/internal/door"
)

// Reporter makes evidence that is bound to 64 bytes. What it returns is judged by the broker, never
// here: a guest cannot vouch for its own processor.
type Reporter interface {
	Report(ctx context.Context, data [64]byte) (door.Evidence, error)
	String() string // for people: where reports come from
}

// ErrNoReporter says that this machine has nothing that reports on it.
var ErrNoReporter = errors.New("this machine has no provider of attestation reports: it is not a confidential VM, or its kernel lacks the driver")

// FindReporter prefers configfs-tsm, then /dev/sev-guest. Development builds may look further,
// and only when both are absent.
func FindReporter() (Reporter, error) {
	tsm := tsmReporter{dir: "/sys/kernel/config/tsm/report"}
	if err := tsm.probe(); err == nil {
		return tsm, nil
	}
	if sev := (sevReporter{path: "/dev/sev-guest"}); sev.probe() == nil {
		return sev, nil
	}
	return fallbackReporter()
}

// tsmReporter uses the kernel's common interface, Documentation/ABI/testing/configfs-tsm.
type tsmReporter struct{ dir string }

// teeOf maps a provider's name to the name of the evidence.
var teeOf = map[string]string{"sev_guest": "sev-snp", "tdx_guest": "tdx"}

const maxBlob = 32 << 10

func (r tsmReporter) String() string { return "configfs-tsm" }

// probe makes an entry, which works only when a provider is registered.
func (r tsmReporter) probe() error {
	entry, err := os.MkdirTemp(r.dir, "probe")
	if err != nil {
		return err
	}
	return os.Remove(entry)
}

func (r tsmReporter) Report(_ context.Context, data [64]byte) (ev door.Evidence, err error) {
	entry, err := os.MkdirTemp(r.dir, "siesta")
	if err != nil {
		return ev, fmt.Errorf("asking configfs-tsm for a report: %w", err)
	}
	// configfs removes a directory's attributes with it.
	defer func() { err = errors.Join(err, os.Remove(entry)) }()
	if err := os.WriteFile(filepath.Join(entry, "inblob"), data[:], 0o600); err != nil {
		return ev, fmt.Errorf("asking configfs-tsm for a report: %w", err)
	}
	provider, err := os.ReadFile(filepath.Join(entry, "provider"))
	if err != nil {
		return ev, fmt.Errorf("asking configfs-tsm for its provider: %w", err)
	}
	tee, ok := teeOf[strings.TrimSpace(string(provider))]
	if !ok {
		return ev, fmt.Errorf("asking configfs-tsm for a report: unknown provider %.32q", provider)
	}
	report, err := os.ReadFile(filepath.Join(entry, "outblob"))
	if err != nil {
		return ev, fmt.Errorf("reading the report: %w", err)
	}
	// Certificates are a hint only: an old kernel, a TDX guest and many hosts have none.
	certificates, err := os.ReadFile(filepath.Join(entry, "auxblob"))
	if err != nil || len(certificates) > maxBlob || len(bytes.Trim(certificates, "\x00")) == 0 {
		certificates = nil
	}
	// generation counts writes to this entry: another value than 1 says that the
	// report may be for somebody else's data.
	generation, err := os.ReadFile(filepath.Join(entry, "generation"))
	if err != nil || strings.TrimSpace(string(generation)) != "1" {
		return ev, errors.Join(errors.New("reading the report: somebody else wrote to the entry"), err)
	}
	if len(report) == 0 || len(report) > maxBlob {
		return ev, fmt.Errorf("reading the report: %d bytes", len(report))
	}
	return door.Evidence{TEE: tee, Report: report, Certificates: certificates}, nil
}
