package main

import (
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/eosc-siesta/siestad/internal/attest"
)

type evidenceFlags struct {
	certs                        []string
	collateral, policy, data, at string
	output                       string
}

// evidenceCommand judges what a confidential guest says of itself. now serves
// when --at is not given.
func evidenceCommand(now func() time.Time) *cobra.Command {
	var f evidenceFlags
	cmd := &cobra.Command{
		Use:   "evidence FILE",
		Short: "Judge an SEV-SNP report or a TD quote, and say why",
		Long: `Judges a raw SEV-SNP report (1184 bytes), a raw TD quote (version 4 or 5), or the
JSON that a client of the KBS protocol sends, wrapped or not; which of them FILE
is, is seen from its content. FILE may be - for standard input. Nothing is
fetched: AMD's and Intel's roots are part of this program, everything else comes
from the files named here.

Every check is listed with what was expected, what was found and the section of
the specification that asks for it. Without --policy only the gates of the code
apply, and "no reference value" is one of the failed checks: a report can be
genuine and still refused, since nobody said what it should have measured.

Exit status: 0 accepted, 1 refused, 2 it could not be judged.`,
		Example: `  siesta-verify evidence report.bin --cert vcek.der
  siesta-verify evidence report.bin --cert vcek.der --policy policy.json --report-data 68656c6c6f
  siesta-verify evidence quote.dat --collateral collateral.json --at 2025-06-25T00:00:00Z -o json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.output != "table" && f.output != "json" {
				return unjudged("-o is %q; write table or json", f.output)
			}
			q, err := f.question(cmd, args[0], now)
			if err != nil {
				return err
			}
			a := q.judge()
			if q.devices {
				fmt.Fprintln(cmd.ErrOrStderr(), "siesta-verify: the evidence of further devices in the file is not judged")
			}
			write := a.writeTable
			if f.output == "json" {
				write = a.writeJSON
			}
			if err := write(cmd.OutOrStdout()); err != nil {
				return unjudged("writing the verdict: %w", err)
			}
			if a.Verdict != attest.Accepted {
				return errRefused
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&f.certs, "cert", nil, "certificates or revocation lists of AMD: DER, PEM or AMD's certificate table `file`; may be repeated")
	flags.StringVar(&f.collateral, "collateral", "", "TDX collateral `file`: one JSON object with Intel's member names")
	flags.StringVar(&f.policy, "policy", "", "attestation policy `file` (canonical JSON)")
	flags.StringVar(&f.data, "report-data", "", "report data that the evidence must carry, in `hex`; zeros are appended up to 64 bytes")
	flags.StringVar(&f.at, "at", "", "`time` of the verdict in RFC 3339 (default now)")
	flags.StringVarP(&f.output, "output", "o", "table", "table or json")
	return cmd
}

// question is all that a verdict depends on.
type question struct {
	evidence   attest.Evidence
	collateral attest.Collateral
	// doubt says why the collateral that was given is not used.
	doubt string
	// policy is nil when none was given.
	policy *attest.Policy
	// data is nil when --report-data was not given.
	data    *[64]byte
	at      time.Time
	devices bool
	// unknown counts what a client's JSON says beyond the report known here.
	unknown int
}

// question reads everything that the flags name. Each of its errors means that
// there is nothing to judge.
func (f *evidenceFlags) question(cmd *cobra.Command, name string, now func() time.Time) (*question, error) {
	q := &question{at: now()}
	var err error
	if cmd.Flags().Changed("at") {
		if q.at, err = time.Parse(time.RFC3339, f.at); err != nil {
			return nil, unjudged("--at is %q; write a time such as 2026-11-24T00:00:00Z", f.at)
		}
	}
	if cmd.Flags().Changed("report-data") {
		if q.data, err = reportData(f.data); err != nil {
			return nil, err
		}
	}
	data, err := readInput(name, cmd.InOrStdin(), maxEvidence)
	if err != nil {
		return nil, err
	}
	what, err := recognise(data)
	if err != nil {
		return nil, unjudged("%s: %w", name, err)
	}
	q.devices = what.devices
	if q.evidence, q.unknown, err = what.evidence(); err != nil {
		return nil, unjudged("%s: %w", name, err)
	}
	var given certificates
	for _, name := range f.certs {
		data, err := readInput(name, nil, maxCertFile)
		if err != nil {
			return nil, err
		}
		if err := given.add(data); err != nil {
			return nil, unjudged("--cert %s: %w", name, err)
		}
	}
	if f.policy != "" {
		data, err := readInput(f.policy, nil, maxPolicyFile)
		if err != nil {
			return nil, err
		}
		policy, err := attest.ParsePolicy(data)
		if err != nil {
			return nil, unjudged("--policy %s: %w", f.policy, err)
		}
		q.policy = &policy
	}
	var intel *intelCollateral
	if f.collateral != "" {
		data, err := readInput(f.collateral, nil, maxCollateralFile)
		if err != nil {
			return nil, err
		}
		if intel, err = readIntel(data); err != nil {
			return nil, unjudged("--collateral %s: %w", f.collateral, err)
		}
	}
	q.gather(given, intel)
	return q, nil
}

const (
	maxPolicyFile = 1 << 20
	// maxCollateralFile holds a PCK revocation list of many thousand entries, in hex.
	maxCollateralFile = 8 << 20
)

// reportData reads 1 to 64 bytes and appends zeros, as firmware tools do.
func reportData(s string) (*[64]byte, error) {
	b, err := hex.DecodeString(strings.TrimPrefix(s, "0x"))
	if err != nil || len(b) == 0 || len(b) > 64 {
		return nil, unjudged("--report-data is no hex of 1 to 64 bytes")
	}
	var out [64]byte
	copy(out[:], b)
	return &out, nil
}
