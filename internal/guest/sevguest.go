package guest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/eosc-siesta/siestad/internal/door"
)

// sevReporter asks the SEV guest driver directly (include/uapi/linux/sev-guest.h), for kernels
// older than configfs-tsm.
type sevReporter struct{ path string }

const (
	// SNP_GET_REPORT: _IOWR('S', 0x0, struct snp_guest_request_ioctl), 32 bytes.
	snpGetReport       = 3<<30 | 32<<16 | 'S'<<8
	snpMessageVersion  = 1
	snpResponseSize    = 4000
	snpReportOffset    = 32
	snpReportSize      = 1184
	snpRequestDataSize = 96
)

// snpRequest is struct snp_guest_request_ioctl.
type snpRequest struct {
	version  uint8
	_        [7]byte
	request  uint64
	response uint64
	exitinfo uint64
}

func (r sevReporter) String() string { return r.path }

func (r sevReporter) probe() error {
	f, err := os.OpenFile(r.path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return f.Close()
}

func (r sevReporter) Report(_ context.Context, data [64]byte) (door.Evidence, error) {
	f, err := os.OpenFile(r.path, os.O_RDWR, 0)
	if err != nil {
		return door.Evidence{}, fmt.Errorf("asking %s for a report: %w", r.path, err)
	}
	defer f.Close()
	var in [snpRequestDataSize]byte // report data, VMPL 0, reserved
	var out [snpResponseSize]byte
	copy(in[:], data[:])
	var pins runtime.Pinner
	defer pins.Unpin()
	pins.Pin(&in)
	pins.Pin(&out)
	req := snpRequest{version: snpMessageVersion, request: uint64(uintptr(unsafe.Pointer(&in))), response: uint64(uintptr(unsafe.Pointer(&out)))} //nolint:gosec // pinned above
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), snpGetReport, uintptr(unsafe.Pointer(&req))); errno != 0 {                             //nolint:gosec // the driver's ioctl
		return door.Evidence{}, fmt.Errorf("asking %s for a report: %w (firmware and hypervisor say %#x)", r.path, errno, req.exitinfo)
	}
	report, err := snpReport(out[:])
	if err != nil {
		return door.Evidence{}, fmt.Errorf("asking %s for a report: %w", r.path, err)
	}
	return door.Evidence{TEE: "sev-snp", Report: report}, nil
}

// snpReport takes the report out of a MSG_REPORT_RSP: status, size, reserved, report.
func snpReport(response []byte) ([]byte, error) {
	status, size := binary.LittleEndian.Uint32(response), binary.LittleEndian.Uint32(response[4:])
	if status != 0 {
		return nil, fmt.Errorf("firmware status %#x", status)
	}
	if size != snpReportSize {
		return nil, errors.New("a report of another size")
	}
	return response[snpReportOffset : snpReportOffset+snpReportSize], nil
}
