package main

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/eosc-siesta/siestad/internal/attest"
)

// maxBundle bounds a stored decision with everything that it was made from; the
// reader of bundles has the same bound.
const maxBundle = 8 << 20

func decisionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "decision FILE",
		Short: "Replay a stored decision and say whether it comes out the same",
		Long: `Judges the evidence of a stored decision again, with the policy, the collateral
and at the time of that day, which are all in its bundle, and compares the verdict,
every digest and every check. FILE may be - for standard input.

The bundle is taken at its word for what was judged: that it is the decision which
siestad recorded is shown by the audit log, whose entry names the same digests.

Exit status: 0 the same result, 1 another result, 2 it could not be replayed.`,
		Example: `  siesta decision bundle 01j… > decision.json
  siesta-verify decision decision.json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			data, err := readInput(args[0], cmd.InOrStdin(), maxBundle)
			if err != nil {
				return err
			}
			b, err := readBundle(data)
			if err != nil {
				return unjudged("%s: %w", args[0], err)
			}
			got, err := b.Replay()
			switch {
			case err != nil && got.Outcome == "":
				return unjudged("%s: %w", args[0], err)
			case err != nil:
				return err
			}
			return writeReplay(cmd.OutOrStdout(), got)
		},
	}
}

// readBundle reads the stored form, its limits before its content.
func readBundle(data []byte) (*attest.Bundle, error) {
	if err := boundedNesting(data); err != nil {
		return nil, err
	}
	m, err := members(data)
	if err != nil {
		return nil, err
	}
	if _, ok := m["decision"]; !ok {
		return nil, errors.New("it is JSON, but no bundle of a decision: there is no decision in it")
	}
	var b attest.Bundle
	if err := b.UnmarshalJSON(data); err != nil {
		return nil, err
	}
	if b.Policy.Simulated {
		return nil, errors.New("it is the decision of a demonstration: the roots of simulated hardware are not in this program")
	}
	return &b, nil
}

func writeReplay(w io.Writer, d attest.Decision) error {
	verdict := d.Outcome
	if d.Code != "" {
		verdict += " (" + d.Code + ": " + d.Check + ")"
	}
	name := d.ID
	if name == "" {
		name = "without an id"
	}
	if _, err := fmt.Fprintf(w, "the decision %s of %s comes out the same: %s\nchecks      %d\nevidence    %s\npolicy      %s\ncollateral  %s, %d objects\n",
		plain(name), d.At.UTC().Format(time.RFC3339), plain(verdict), len(d.Checks), d.Evidence, d.Policy, d.Collateral, len(d.Objects)); err != nil {
		return unjudged("writing the result: %w", err)
	}
	return nil
}
