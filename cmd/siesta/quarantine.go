package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"
)

type quarantineView struct {
	ID       string `json:"id"`
	Kind     string `json:"kind"`
	Value    string `json:"value"`
	Reason   string `json:"reason"`
	State    string `json:"state"`
	PlacedBy string `json:"placed_by"`
	LiftedBy string `json:"lifted_by"`
	Hits     []struct {
		Workspace string `json:"workspace"`
		Project   string `json:"project"`
		Site      string `json:"site"`
		Lease     string `json:"lease"`
		Host      string `json:"host"`
		Chip      string `json:"chip"`
	} `json:"hits"`
}

func (a *app) quarantine() *cobra.Command {
	cmd := &cobra.Command{Use: "quarantine", Short: "Take a chip, host, image, key version or product line out of service"}
	var reason string
	place := &cobra.Command{
		Use: "place KIND VALUE", Short: "Refuse releases and renewals, and end the live leases: chip ID, host SITE/NAME, image ID, key WORKSPACE/VERSION, product NAME",
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.post(cmd.Context(), "/v1/quarantines", map[string]string{"kind": args[0], "value": args[1], "reason": reason}, printQuarantine)
		},
	}
	place.Flags().StringVar(&reason, "reason", "", "why; kept with the quarantine")
	require(place, "reason")
	cmd.AddCommand(place,
		a.showOne("Show a quarantine and what it hit", "/v1/quarantines/%s", printQuarantine),
		a.act("lift ID", "Lift a quarantine; never by who placed it", "/v1/quarantines/%s/lift", printQuarantine),
		&cobra.Command{Use: "list", Short: "List quarantines, newest first", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			return list(cmd.Context(), a, "/v1/quarantines", filter(), []string{"ID", "KIND", "VALUE", "STATE", "REASON"}, func(v quarantineView) []string {
				return []string{v.ID, v.Kind, clipped(v.Value, 40), v.State, v.Reason}
			})
		}})
	return cmd
}

func printQuarantine(p printer, body []byte) error {
	if p.json {
		return p.raw(body)
	}
	var v quarantineView
	if err := json.Unmarshal(body, &v); err != nil {
		return fmt.Errorf("unexpected answer: %w", err)
	}
	if err := p.fields("id", v.ID, "kind", v.Kind, "value", v.Value, "state", v.State, "reason", v.Reason, "placed by", v.PlacedBy, "lifted by", v.LiftedBy); err != nil {
		return err
	}
	if len(v.Hits) == 0 {
		_, err := fmt.Fprintln(p.out, "\nIt hit no workspace.")
		return err
	}
	fmt.Fprintln(p.out, "\nIt hit:")
	var rows [][]string
	for _, h := range v.Hits {
		rows = append(rows, []string{h.Workspace, h.Project, h.Site, h.Lease, h.Host, clipped(h.Chip, 16)})
	}
	return p.table([]string{"WORKSPACE", "PROJECT", "SITE", "LEASE ENDED", "HOST", "CHIP"}, rows)
}
