package main

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

type projectView struct {
	ID         string    `json:"id"`
	Name       string    `json:"name"`
	State      string    `json:"state"`
	ValidUntil time.Time `json:"valid_until"`
	Members    []string  `json:"members"`
}

type datasetView struct {
	ID        string `json:"id"`
	Title     string `json:"title"`
	Version   string `json:"version"`
	Custodian string `json:"custodian"`
}

type permitView struct {
	ID      string    `json:"id"`
	Project string    `json:"project"`
	Dataset string    `json:"dataset"`
	People  []string  `json:"people"`
	State   string    `json:"state"`
	Until   time.Time `json:"until"`
}

type freezeView struct {
	ID     string `json:"id"`
	Kind   string `json:"kind"`
	Value  string `json:"value"`
	Reason string `json:"reason"`
	State  string `json:"state"`
}

// show prints an object's fields, or its JSON.
func show[T any](fields func(T) []string) func(printer, []byte) error {
	return func(p printer, body []byte) error {
		if p.json {
			return p.raw(body)
		}
		var v T
		if err := json.Unmarshal(body, &v); err != nil {
			return fmt.Errorf("unexpected answer: %w", err)
		}
		return p.fields(fields(v)...)
	}
}

var (
	showProject = show(func(v projectView) []string {
		return []string{"id", v.ID, "name", v.Name, "state", v.State, "valid until", date(v.ValidUntil), "members", strings.Join(v.Members, ", ")}
	})
	showDataset = show(func(v datasetView) []string {
		return []string{"id", v.ID, "title", v.Title, "version", v.Version, "custodian", v.Custodian}
	})
	showPermit = show(func(v permitView) []string {
		return []string{"id", v.ID, "project", v.Project, "dataset", v.Dataset, "people", strings.Join(v.People, ", "), "state", v.State, "until", date(v.Until)}
	})
	showFreeze = show(func(v freezeView) []string {
		return []string{"id", v.ID, "kind", v.Kind, "value", v.Value, "reason", v.Reason, "state", v.State}
	})
)

func date(t time.Time) string { return t.UTC().Format(time.DateOnly) }

// parseDate reads 2027-06-30 as the end of that day in UTC.
func parseDate(flag, value string) (time.Time, error) {
	t, err := time.Parse(time.DateOnly, value)
	if err != nil {
		return time.Time{}, fmt.Errorf("--%s %q: write the date as YYYY-MM-DD", flag, value)
	}
	return t.AddDate(0, 0, 1).Add(-time.Second), nil
}

func (a *app) project() *cobra.Command {
	cmd := &cobra.Command{Use: "project", Short: "Create and list research projects"}
	var name, until string
	var members []string
	create := &cobra.Command{
		Use: "create ID", Short: "Create a project", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			end, err := parseDate("until", until)
			if err != nil {
				return err
			}
			return a.post(cmd.Context(), "/v1/projects", map[string]any{"id": args[0], "name": name, "valid_until": end, "members": members}, showProject)
		},
	}
	create.Flags().StringVar(&name, "name", "", "name for people")
	create.Flags().StringVar(&until, "until", "", "last day on which its approvals are valid, YYYY-MM-DD")
	create.Flags().StringSliceVar(&members, "member", []string{}, "subject of a member, as `siesta me` shows it (repeatable)")
	cmd.AddCommand(create,
		a.act("close ID", "Close a project: no key of it is released any more", "/v1/projects/%s/close", showProject),
		&cobra.Command{Use: "list", Short: "List projects", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			return list(cmd.Context(), a, "/v1/projects", url.Values{}, []string{"ID", "NAME", "STATE", "VALID UNTIL", "MEMBERS"}, func(v projectView) []string {
				return []string{v.ID, v.Name, v.State, date(v.ValidUntil), fmt.Sprint(len(v.Members))}
			})
		}})
	return cmd
}

func (a *app) dataset() *cobra.Command {
	cmd := &cobra.Command{Use: "dataset", Short: "Register and list dataset versions"}
	var title, version string
	create := &cobra.Command{
		Use: "create ID", Short: "Register a dataset version; you become its custodian", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.post(cmd.Context(), "/v1/datasets", map[string]any{"id": args[0], "title": title, "version": version}, showDataset)
		},
	}
	create.Flags().StringVar(&title, "title", "", "title for people")
	create.Flags().StringVar(&version, "version", "1", "version")
	cmd.AddCommand(create, &cobra.Command{Use: "list", Short: "List datasets", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		return list(cmd.Context(), a, "/v1/datasets", url.Values{}, []string{"ID", "TITLE", "VERSION", "CUSTODIAN"}, func(v datasetView) []string {
			return []string{v.ID, v.Title, v.Version, v.Custodian}
		})
	}})
	return cmd
}

func (a *app) permit() *cobra.Command {
	cmd := &cobra.Command{Use: "permit", Short: "Grant, list and end permits"}
	var project, dataset, until string
	var people []string
	grant := &cobra.Command{
		Use: "grant", Short: "Let people of a project use a dataset of yours", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			end, err := parseDate("until", until)
			if err != nil {
				return err
			}
			return a.post(cmd.Context(), "/v1/permits", map[string]any{"project": project, "dataset": dataset, "people": people, "until": end}, showPermit)
		},
	}
	grant.Flags().StringVar(&project, "project", "", "project")
	grant.Flags().StringVar(&dataset, "dataset", "", "dataset")
	grant.Flags().StringSliceVar(&people, "person", []string{}, "subject of a member of the project (repeatable)")
	grant.Flags().StringVar(&until, "until", "", "last day of the permit, YYYY-MM-DD")
	cmd.AddCommand(grant,
		a.act("end ID", "End a permit for good", "/v1/permits/%s/end", showPermit),
		&cobra.Command{Use: "list", Short: "List permits", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			return list(cmd.Context(), a, "/v1/permits", url.Values{}, []string{"ID", "PROJECT", "DATASET", "STATE", "UNTIL", "PEOPLE"}, func(v permitView) []string {
				return []string{v.ID, v.Project, v.Dataset, v.State, date(v.Until), strings.Join(v.People, ", ")}
			})
		}})
	return cmd
}

func (a *app) freeze() *cobra.Command {
	cmd := &cobra.Command{Use: "freeze", Short: "Stop key releases at once, and lift the stop"}
	var reason string
	place := &cobra.Command{
		Use: "place KIND VALUE", Short: "Refuse releases and renewals: person ISSUER|SUBJECT, project ID, dataset ID, image ID, site NAME, chip ID, host SITE/NAME, product NAME, key WORKSPACE/VERSION",
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.post(cmd.Context(), "/v1/freezes", map[string]string{"kind": args[0], "value": args[1], "reason": reason}, showFreeze)
		},
	}
	place.Flags().StringVar(&reason, "reason", "", "why; kept with the freeze")
	cmd.AddCommand(place,
		a.act("lift ID", "Lift a freeze", "/v1/freezes/%s/lift", showFreeze),
		&cobra.Command{Use: "list", Short: "List freezes", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			return list(cmd.Context(), a, "/v1/freezes", url.Values{}, []string{"ID", "KIND", "VALUE", "STATE", "REASON"}, func(v freezeView) []string {
				return []string{v.ID, v.Kind, v.Value, v.State, v.Reason}
			})
		}})
	return cmd
}
