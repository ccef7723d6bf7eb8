//go:build devtee

package labpsp

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/lab/devfirmware"
	"github.com/eosc-siesta/siestad/internal/lab/softpsp"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// bed is a libvirt of files: list and dumpxml print what lies in its folder.
type bed struct {
	t   *testing.T
	dir string
	cfg Config
}

func newBed(t *testing.T) *bed {
	t.Helper()
	dir := t.TempDir()
	// It is called as: virsh -q -c ADDRESS COMMAND ...
	script := "#!/bin/sh\ncd '" + dir + "'\nshift 3\n" +
		"case $1 in list) cat ids ;; dumpxml) cat \"$2.xml\" ;; event) exec tail -n +1 -f events ;; esac\n"
	must(t, os.WriteFile(filepath.Join(dir, "virsh"), []byte(script), 0o700))
	for name, text := range map[string]string{"ids": "", "events": "", "kernel": "a kernel", "initrd": "an initrd"} {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	psp, err := softpsp.New(softpsp.Config{Now: time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)})
	must(t, err)
	sig, ok := attest.VCPUSig("EPYC-v4")
	if !ok {
		t.Fatal("no signature for EPYC-v4")
	}
	return &bed{t: t, dir: dir, cfg: Config{
		PSP: psp, Firmware: devfirmware.Generate(), VCPUSig: sig, GuestFeatures: 1,
		Virsh: filepath.Join(dir, "virsh"), Interval: 5 * time.Millisecond,
	}}
}

// write replaces a file at once, so that no look sees half of it.
func (b *bed) write(name, text string) {
	b.t.Helper()
	tmp := filepath.Join(b.dir, name+".new")
	must(b.t, os.WriteFile(tmp, []byte(text), 0o600))
	must(b.t, os.Rename(tmp, filepath.Join(b.dir, name)))
}

// start plays QEMU: the host's end of the port listens, then the domain is listed.
func (b *bed) start(id, kernel, line string, vcpus int) net.Conn {
	b.t.Helper()
	sock := filepath.Join(b.dir, id+".sock")
	ln, err := net.Listen("unix", sock)
	must(b.t, err)
	b.t.Cleanup(func() { _ = ln.Close() })
	b.write(id+".xml", fmt.Sprintf(`<domain type='qemu' id='%s'><name>instance-1</name><uuid>8304c75a-dbf6-419b-828a-c9346252df29</uuid>
<vcpu placement='static'>%d</vcpu><os>%s<initrd>%s/initrd</initrd><cmdline>%s</cmdline></os>
<devices><channel type='unix'><source mode='bind' path='/elsewhere'/><target type='virtio' name='other'/></channel>
<channel type='unix'><source mode='bind' path='%s'/><target type='virtio' name='org.qemu.guest_agent.0'/></channel></devices></domain>`,
		id, vcpus, kernel, b.dir, line, sock))
	b.write("ids", id+"\n")
	must(b.t, ln.(*net.UnixListener).SetDeadline(time.Now().Add(20*time.Second)))
	conn, err := ln.Accept()
	must(b.t, err)
	b.t.Cleanup(func() { _ = conn.Close() })
	must(b.t, conn.SetDeadline(time.Now().Add(20*time.Second)))
	return conn
}

type reply struct {
	Report []byte `json:"report"`
	Error  string `json:"error"`
}

func ask(t *testing.T, conn net.Conn) reply {
	t.Helper()
	_, err := fmt.Fprintf(conn, "{\"report_data\":%q}\n", hex.EncodeToString(make([]byte, 64)))
	must(t, err)
	line, err := bufio.NewReader(conn).ReadBytes('\n')
	must(t, err)
	var r reply
	must(t, json.Unmarshal(line, &r))
	return r
}

func (b *bed) run() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, b.cfg) }()
	b.t.Cleanup(func() {
		cancel()
		must(b.t, <-done)
	})
}

func (b *bed) kernel() string { return "<kernel>" + b.dir + "/kernel</kernel>" }

// Offsets in a report: measurement, REPORT_ID.
func measurement(r reply) []byte { return r.Report[0x90:0xc0] }
func reportID(r reply) []byte    { return r.Report[0x140:0x160] }

func TestMeasuresWhatLibvirtSays(t *testing.T) {
	b := newBed(t)
	b.run()
	got := ask(t, b.start("7", b.kernel(), "console=ttyS0 siesta.ws=a&amp;b", 2))
	if got.Error != "" {
		t.Fatal(got.Error)
	}

	kernel, initrd := sha256.Sum256([]byte("a kernel")), sha256.Sum256([]byte("an initrd"))
	want, err := attest.LaunchDigest(attest.DigestInput{
		Firmware: b.cfg.Firmware, KernelSHA256: &kernel, InitrdSHA256: &initrd, Append: "console=ttyS0 siesta.ws=a&b", VCPUs: 2,
		VCPUSig: b.cfg.VCPUSig, GuestFeatures: 1,
	})
	must(t, err)
	if !bytes.Equal(measurement(got), want[:]) {
		t.Errorf("measured %x, want %x", measurement(got), want)
	}
}

func TestNextStartIsAnotherLaunch(t *testing.T) {
	b := newBed(t)
	b.run()
	first := b.start("1", b.kernel(), "line", 1)
	one, again := ask(t, first), ask(t, first)
	if !bytes.Equal(reportID(one), reportID(again)) {
		t.Error("one launch has two REPORT_IDs")
	}

	b.write("ids", "")
	_, err := bufio.NewReader(first).ReadByte()
	if err == nil {
		t.Error("the port of an ended launch stays open")
	}
	two := ask(t, b.start("2", b.kernel(), "line", 1))
	if bytes.Equal(reportID(one), reportID(two)) {
		t.Error("two launches have one REPORT_ID")
	}
	if !bytes.Equal(measurement(one), measurement(two)) {
		t.Error("the same domain measures differently")
	}
}

func TestNoReportWithoutDirectBoot(t *testing.T) {
	b := newBed(t)
	b.run()
	got := ask(t, b.start("1", "", "", 1))
	if len(got.Report) != 0 || !strings.Contains(got.Error, "boots from its disk") {
		t.Errorf("answered %q, report of %d bytes", got.Error, len(got.Report))
	}
}

func TestNoReportAfterReset(t *testing.T) {
	b := newBed(t)
	b.run()
	conn := b.start("1", b.kernel(), "line", 1)
	if r := ask(t, conn); r.Error != "" {
		t.Fatal(r.Error)
	}
	f, err := os.OpenFile(filepath.Join(b.dir, "events"), os.O_APPEND|os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteString("event 'reboot' for domain 'instance-1'\n")
	must(t, err)
	must(t, f.Close())
	for ask(t, conn).Error == "" { // the connection's deadline ends this
	}
}

func TestZeroConfigurationRefuses(t *testing.T) {
	if err := Run(context.Background(), Config{}); err == nil {
		t.Error("an undescribed machine is played")
	}
}
