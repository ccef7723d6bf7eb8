// Command siesta-guest is the whole user space of a siestad guest. As process 1 of the measured initrd it
// proves itself to the broker, opens the data volume, keeps the lease and powers off.
//
//	siesta-guest doctor    say in words what this machine lacks
//
// It takes no flag and reads no environment: what it does is decided by the measured
// command line, and by what the broker signs.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"time"

	"github.com/eosc-siesta/siestad/internal/guest"
	"github.com/eosc-siesta/siestad/internal/guest/luks"
	"github.com/eosc-siesta/siestad/internal/guest/machine"
)

var tools = luks.Tools{Cryptsetup: "/usr/sbin/cryptsetup", Mke2fs: "/usr/sbin/mke2fs", Dir: machine.RunDir}

func main() {
	if os.Getpid() == 1 {
		boot()
	}
	if len(os.Args) == 2 && os.Args[1] == "doctor" {
		os.Exit(doctor(os.Stdout))
	}
	fmt.Fprintln(os.Stderr, "usage: siesta-guest doctor\n(as process 1 of an initrd it needs no argument)")
	os.Exit(2)
}

func doctor(w io.Writer) int {
	code := 0
	for _, f := range guest.Examine(tools) {
		fmt.Fprintln(w, f)
		if !f.OK {
			code = 1
		}
	}
	return code
}

// boot never returns: whatever happens, the machine is powered off. Process 1 that ends would panic the
// kernel, and a rebooted guest is a second boot that nobody asked for.
func boot() {
	debug.SetTraceback("none") // a trace on the console prints memory
	defer machine.PowerOff()
	defer func() {
		if r := recover(); r != nil {
			say("stopped by a defect of this program")
		}
	}()
	if err := run(context.Background()); err != nil {
		say("powering off: %v", err)
	}
}

const networkPatience = 2 * time.Minute

func run(ctx context.Context) error {
	if err := machine.Prepare(); err != nil {
		return err
	}
	say("%s", banner)
	text, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return fmt.Errorf("reading the measured line: %w", err)
	}
	line, err := guest.ParseLine(string(text))
	if err != nil {
		return err
	}
	button, err := machine.PowerButton()
	if err != nil {
		say("no power button, so a stop from outside pulls the plug: %v", err)
	}
	wait, cancel := context.WithTimeout(ctx, networkPatience)
	offer, err := machine.Network(wait, ctx)
	cancel()
	if err != nil {
		return err
	}
	say("network: %s", offer.Address)
	reporter, err := guest.FindReporter()
	if err != nil {
		for _, f := range guest.Examine(tools) {
			say("%s", f)
		}
		return err
	}
	return guest.Run(ctx, guest.Config{
		Line: line, Reporter: reporter, Button: button, Print: say,
		Volume: &guest.DiskVolume{Tools: tools},
	})
}

// say writes to the console, which belongs to the host: nothing secret is ever said.
func say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "siesta-guest: "+format+"\n", args...)
}
