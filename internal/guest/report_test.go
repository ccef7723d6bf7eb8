package guest

import (
	"bytes"
	"encoding/binary"
	"testing"
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
	if err := (tsmReporter{dir: t.TempDir() + "/absent"}).probe(); err == nil {
		t.Error("configfs-tsm found where there is none")
	}
	if err := (sevReporter{path: t.TempDir() + "/absent"}).probe(); err == nil {
		t.Error("/dev/sev-guest found where there is none")
	}
}
