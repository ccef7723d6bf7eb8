package cloudsim

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// keepBootFiles gives the server its own names for kernel and initrd, as a compute host does: the images may be deleted
// while the server lives.
func (c *Cloud) keepBootFiles(s *server) error {
	for property, path := range map[string]*string{"kernel_id": &s.kernel, "ramdisk_id": &s.ramdisk} {
		id := s.properties[property]
		if id == "" {
			continue
		}
		*path = filepath.Join(c.cfg.Dir, "consoles", s.ID+"."+property)
		if err := os.Link(c.imageFile(id), *path); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cloud) macOf(s *server) string {
	if p := c.ports[s.Port]; p != nil {
		return p.MAC
	}
	return ""
}

// spawn is what the compute host does: bind the port, attach the disks, start the machine.
func (c *Cloud) spawn(s *server) {
	if s.Task == "deleting" || c.servers[s.ID] == nil {
		return
	}
	p := c.ports[s.Port]
	if p == nil || p.Device != "" {
		s.fail("Build of instance " + s.ID + " aborted: Port " + s.Port + " is still in use.")
		c.releaseDisks(s)
		return
	}
	p.Device, p.Owner = s.ID, "compute:nova"
	for _, id := range s.Volumes {
		if v := c.volumes[id]; v != nil {
			v.Status, v.Server = "in-use", s.ID
		}
	}
	s.Task = "spawning"
	c.boot(s)
}

func (c *Cloud) console(s *server) string { return filepath.Join(c.cfg.Dir, "consoles", s.ID+".log") }

// boot starts the machine, without the lock, with the properties of the server's creation.
func (c *Cloud) boot(s *server) {
	running := func() { s.Status, s.VM, s.Task = "ACTIVE", "active", ""; s.boots++ }
	if c.cfg.Boot == nil {
		running()
		return
	}
	spec := BootSpec{
		Server: s.ID, Name: s.Name, Flavor: s.Flavor.Name, Append: s.properties["os_command_line"], VCPUs: s.Flavor.VCPUs, MemMiB: s.Flavor.RAMMiB,
		MAC: c.macOf(s), Kernel: s.kernel, Initrd: s.ramdisk, GuestAgentChannel: s.properties["hw_qemu_guest_agent"] == "yes", Console: c.console(s),
	}
	for _, id := range s.Volumes {
		spec.Disks = append(spec.Disks, Disk{Path: c.volumeFile(id), Serial: id[:20]})
	}
	c.work.Add(1)
	go func() {
		defer c.work.Done()
		m, err := c.cfg.Boot(spec)
		c.mu.Lock()
		defer c.mu.Unlock()
		switch {
		case err != nil:
			s.fail("Failed to start the domain: " + err.Error())
		case c.closed || c.servers[s.ID] == nil || s.Task == "deleting":
			m.Kill()
		default:
			s.machine = m
			running()
			c.work.Add(1)
			go c.watch(s, m)
		}
	}()
}

// watch turns a machine that ends into a server that is SHUTOFF.
func (c *Cloud) watch(s *server, m Machine) {
	defer c.work.Done()
	<-m.Done()
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.machine != m {
		return
	}
	s.machine = nil
	if s.Status == "ACTIVE" && s.Task != "powering-off" { // else stop says so
		s.Status, s.VM, s.Task = "SHUTOFF", "stopped", ""
	}
}

// stop asks the machine to power down, and kills it when that takes too long.
func (c *Cloud) stop(s *server) {
	m := s.machine
	off := func() { s.Status, s.VM, s.Task = "SHUTOFF", "stopped", "" }
	if m == nil {
		c.after(c.cfg.Latency.Server, off)
		return
	}
	c.work.Add(1)
	go func() {
		defer c.work.Done()
		ctx, cancel := context.WithTimeout(context.Background(), c.cfg.StopTimeout)
		defer cancel()
		_ = m.Powerdown(ctx) // a guest without ACPI is killed below
		select {
		case <-m.Done():
		case <-ctx.Done():
			m.Kill()
			<-m.Done()
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		off()
	}()
}

const consoleBytes = 100 << 10

// tail returns the last lines of a file, of at most its last 100 KiB, as Nova does.
func tail(path string, lines int) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > consoleBytes {
		_, _ = f.Seek(-consoleBytes, io.SeekEnd)
	}
	raw, _ := io.ReadAll(io.LimitReader(f, consoleBytes))
	all := strings.SplitAfter(strings.TrimSuffix(string(raw), "\n"), "\n")
	if lines > 0 && len(all) > lines {
		all = all[len(all)-lines:]
	}
	return strings.Join(all, "")
}
