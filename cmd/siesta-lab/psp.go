//go:build devtee

package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/lab/devfirmware"
	"github.com/eosc-siesta/siestad/internal/lab/labpsp"
	"github.com/eosc-siesta/siestad/internal/lab/softpsp"
)

// psp plays the secure processor of a real Nova's host. What the daemon's configuration needs to know of it is in the
// directory when the file chip is.
func psp(dir *string) *cobra.Command {
	var libvirt bool
	var vcpuType string
	var features uint64
	cmd := &cobra.Command{
		Use: "psp --libvirt", Short: "Answer the report requests of libvirt's domains, until ended", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !libvirt {
				return errors.New("psp: say --libvirt; the demo's cloud has a simulated processor of its own")
			}
			sig, ok := attest.VCPUSig(vcpuType)
			if !ok {
				return fmt.Errorf("psp: no such processor model: %s", vcpuType)
			}
			logger, err := zap.NewProduction()
			if err != nil {
				return err
			}
			p, err := softpsp.New(softpsp.Config{Now: time.Now()})
			if err != nil {
				return err
			}
			if err := os.MkdirAll(*dir, 0o700); err != nil {
				return fmt.Errorf("starting the simulated processor: %w", err)
			}
			chip, firmware := p.ChipID(), devfirmware.Generate()
			for _, f := range []struct {
				name    string
				content []byte
			}{{"firmware.fd", firmware}, {"roots.pem", p.Roots()}, {"chip", []byte(hex.EncodeToString(chip[:]) + "\n")}} {
				if err := os.WriteFile(filepath.Join(*dir, f.name), f.content, 0o600); err != nil {
					return fmt.Errorf("starting the simulated processor: %w", err)
				}
			}
			return labpsp.Run(cmd.Context(), labpsp.Config{PSP: p, Firmware: firmware, VCPUSig: sig, GuestFeatures: features, Logger: logger})
		},
	}
	cmd.Flags().BoolVar(&libvirt, "libvirt", false, "serve the domains of the libvirt on this machine")
	cmd.Flags().StringVar(&vcpuType, "vcpu-type", "EPYC-Milan", "processor model that the site's configuration names")
	cmd.Flags().Uint64Var(&features, "guest-features", 1, "SEV_FEATURES that the site's configuration names")
	return cmd
}
