package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
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
	tsm := tsmReporter{dir: "/sys/kernel/config/tsm/report", tables: "/sys/firmware/acpi/tables/data"}
	if provider, err := tsm.probe(); err == nil {
		tsm.provider = provider
		return tsm, nil
	}
	if sev := (sevReporter{path: "/dev/sev-guest"}); sev.probe() == nil {
		return sev, nil
	}
	return fallbackReporter()
}

// tsmReporter uses the kernel's common interface, Documentation/ABI/testing/configfs-tsm. Beside a quote of TDX goes the
// event log, which the kernel shows as the data of the ACPI table CCEL.
type tsmReporter struct{ dir, tables, provider string }

// teeOf maps a provider's name to the name of the evidence.
var teeOf = map[string]string{"sev_guest": "sev-snp", "tdx_guest": "tdx"}

const maxBlob = 32 << 10

func (r tsmReporter) String() string { return "configfs-tsm (" + r.provider + ")" }

// probe makes an entry, which works only when a provider is registered.
func (r tsmReporter) probe() (provider string, err error) {
	entry, err := os.MkdirTemp(r.dir, "probe")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, os.Remove(entry)) }()
	return providerOf(entry)
}

func providerOf(entry string) (string, error) {
	name, err := os.ReadFile(filepath.Join(entry, "provider"))
	if err != nil {
		return "", fmt.Errorf("asking configfs-tsm for its provider: %w", err)
	}
	return strings.TrimSpace(string(name)), nil
}

func (r tsmReporter) Report(_ context.Context, data [64]byte) (ev door.Evidence, err error) {
	entry, err := os.MkdirTemp(r.dir, "siesta")
	if err != nil {
		return ev, fmt.Errorf("asking configfs-tsm for a report: %w", err)
	}
	// configfs removes a directory's attributes with it.
	defer func() { err = errors.Join(err, os.Remove(entry)) }()
	return r.ask(entry, data)
}

func (r tsmReporter) ask(entry string, data [64]byte) (ev door.Evidence, err error) {
	if err := os.WriteFile(filepath.Join(entry, "inblob"), data[:], 0o600); err != nil {
		return ev, fmt.Errorf("asking configfs-tsm for a report: %w", err)
	}
	provider, err := providerOf(entry)
	if err != nil {
		return ev, err
	}
	tee, ok := teeOf[provider]
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
	ev = door.Evidence{TEE: tee, Report: report, Certificates: certificates}
	if tee == "tdx" {
		ev.EventLog, err = r.eventLog()
	}
	return ev, err
}

const (
	// maxLogArea bounds the area in which firmware keeps the log; those that were seen have 64 and 256 KiB.
	maxLogArea = 1 << 20
	// logSlack is how much of the padding is left: the last event may itself end in bytes that look like padding.
	logSlack = 1 << 10
)

// eventLog is what firmware and kernel say that they measured; nil if the machine has no log, which is for the broker to
// judge: it refuses where its policy needs one.
func (r tsmReporter) eventLog() ([]byte, error) {
	f, err := os.Open(filepath.Join(r.tables, "CCEL"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the event log: %w", err)
	}
	defer f.Close()
	area, err := io.ReadAll(io.LimitReader(f, maxLogArea))
	if err != nil {
		return nil, fmt.Errorf("reading the event log: %w", err)
	}
	log := unpadded(area)
	if len(log) > door.MaxEventLog {
		return nil, fmt.Errorf("reading the event log: it has more than the %d bytes that the broker reads; boot the kernel directly, without a boot loader that measures", door.MaxEventLog)
	}
	return log, nil
}

// unpadded cuts off what firmware fills the area with behind the log: ones, or zeros. A reader of the log passes over what
// is left of it.
func unpadded(area []byte) []byte {
	if len(area) == 0 {
		return nil
	}
	fill, used := area[len(area)-1], len(area)
	if fill != 0 && fill != 0xff {
		return area
	}
	for used > 0 && area[used-1] == fill {
		used--
	}
	return area[:min(len(area), used+logSlack)]
}
