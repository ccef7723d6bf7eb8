package guest

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/eosc-siesta/siestad/internal/door"
)

func TestSNPReport(t *testing.T) {
	response := make([]byte, snpResponseSize)
	binary.LittleEndian.PutUint32(response[4:], snpReportSize)
	response[snpReportOffset], response[snpReportOffset+snpReportSize-1] = 1, 2
	report, err := snpReport(response)
	if err != nil || len(report) != snpReportSize || report[0] != 1 || !bytes.HasSuffix(report, []byte{2}) {
		t.Errorf("%d bytes, %v", len(report), err)
	}
	binary.LittleEndian.PutUint32(response, 0x16)
	if _, err := snpReport(response); err == nil {
		t.Error("a firmware error passes")
	}
	binary.LittleEndian.PutUint32(response, 0)
	binary.LittleEndian.PutUint32(response[4:], 0)
	if _, err := snpReport(response); err == nil {
		t.Error("an empty report passes")
	}
}

func TestNoReporterWithoutATEE(t *testing.T) {
	if _, err := (tsmReporter{dir: t.TempDir() + "/absent"}).probe(); err == nil {
		t.Error("configfs-tsm found where there is none")
	}
	if err := (sevReporter{path: t.TempDir() + "/absent"}).probe(); err == nil {
		t.Error("/dev/sev-guest found where there is none")
	}
}

// entry is what the kernel makes of a directory in configfs.
func entry(t *testing.T, provider, report string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"provider": provider + "\n", "outblob": report, "generation": "1\n"} {
		write(t, filepath.Join(dir, name), []byte(text))
	}
	return dir
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// The log of a real trust domain goes with its quote, without most of its padding; where there is none, the broker hears so.
func TestEventLogGoesWithTheQuote(t *testing.T) {
	area, err := os.ReadFile("../attest/testdata/tdx/ccel-ovmf.bin")
	if err != nil {
		t.Fatal(err)
	}
	const used = 2120 // of 64 KiB; the rest is ones
	r := tsmReporter{tables: t.TempDir()}
	data := [64]byte{1, 63: 2}
	ask := func(provider string) door.Evidence {
		t.Helper()
		dir := entry(t, provider, "report")
		ev, err := r.ask(dir, data)
		if err != nil {
			t.Fatal(err)
		}
		if in, err := os.ReadFile(filepath.Join(dir, "inblob")); err != nil || !bytes.Equal(in, data[:]) {
			t.Errorf("the kernel was given %x, %v", in, err)
		}
		return ev
	}
	if ev := ask("tdx_guest"); ev.TEE != "tdx" || string(ev.Report) != "report" || ev.EventLog != nil {
		t.Errorf("without a log: %+v", ev)
	}
	if f := r.examineLog(); f.OK || !strings.Contains(f.String(), "CCEL") {
		t.Errorf("the doctor says: %s", f)
	}
	write(t, filepath.Join(r.tables, "CCEL"), area)
	if ev := ask("tdx_guest"); !bytes.Equal(ev.EventLog, area[:used+logSlack]) {
		t.Errorf("%d bytes of the log, want %d", len(ev.EventLog), used+logSlack)
	}
	if f := r.examineLog(); !f.OK || !strings.Contains(f.String(), "3144 bytes") {
		t.Errorf("the doctor says: %s", f)
	}
	if ev := ask("sev_guest"); ev.TEE != "sev-snp" || ev.EventLog != nil {
		t.Errorf("beside a report: %+v", ev)
	}
	write(t, filepath.Join(r.tables, "CCEL"), bytes.Repeat([]byte{1}, door.MaxEventLog+1))
	if _, err := r.ask(entry(t, "tdx_guest", "report"), data); err == nil || !strings.Contains(err.Error(), "65536 bytes") {
		t.Errorf("a log with a byte more than the broker reads: %v", err)
	}
	// A broken file is an error: to leave the log out would have the broker refuse for another reason than the true one.
	r.tables = filepath.Join(r.tables, "CCEL")
	if _, err := r.ask(entry(t, "tdx_guest", "report"), data); err == nil {
		t.Error("a log that cannot be read is left out")
	}
}

func TestUnpadded(t *testing.T) {
	ones, zeros := bytes.Repeat([]byte{0xff}, 5000), make([]byte, 5000)
	for name, row := range map[string]struct {
		area []byte
		want int
	}{
		"nothing":                  {nil, 0},
		"no padding":               {[]byte{1, 2, 3}, 3},
		"ones":                     {append([]byte{1, 2}, ones...), 2 + logSlack},
		"zeros":                    {append([]byte{1, 2}, zeros...), 2 + logSlack},
		"little":                   {append([]byte{1, 2}, ones[:9]...), 11},
		"only padding":             {ones, logSlack},
		"an event that ends in it": {append([]byte{1, 0xff, 0xff}, ones...), 1 + logSlack},
	} {
		if got := unpadded(row.area); len(got) != row.want || !bytes.HasPrefix(row.area, got) {
			t.Errorf("%s: %d bytes of %d, want %d", name, len(got), len(row.area), row.want)
		}
	}
}
