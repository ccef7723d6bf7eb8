package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

type workspaceView struct {
	ID         string    `json:"id"`
	Name       string    `json:"name"`
	Project    string    `json:"project"`
	Dataset    string    `json:"dataset"`
	Image      string    `json:"image"`
	Site       string    `json:"site"`
	Flavor     string    `json:"flavor"`
	DataGiB    int       `json:"data_gib"`
	State      string    `json:"state"`
	Generation int       `json:"generation"`
	Simulated  bool      `json:"simulated"`
	CreatedAt  time.Time `json:"created_at"`
}

type operationView struct {
	ID        string     `json:"id"`
	Kind      string     `json:"kind"`
	Workspace string     `json:"workspace"`
	State     string     `json:"state"`
	Detail    string     `json:"detail"`
	Problem   *problem   `json:"problem"`
	Steps     []stepView `json:"steps"`
}

type stepView struct {
	Name       string   `json:"name"`
	State      string   `json:"state"`
	Detail     string   `json:"detail"`
	Problem    *problem `json:"problem"`
	AgeSeconds float64  `json:"age_seconds"`
}

type factView struct {
	Name  string `json:"name"`
	Holds bool   `json:"holds"`
	Why   string `json:"why"`
	Fix   string `json:"fix"`
}

func (o operationView) ended() bool {
	return o.State == "succeeded" || o.State == "failed" || o.State == "parked"
}

func (a *app) workspace() *cobra.Command {
	cmd := &cobra.Command{Use: "workspace", Aliases: []string{"ws"}, Short: "Create, watch, reboot and delete workspaces"}
	cmd.AddCommand(a.workspaceCreate(), a.workspaceList(), a.workspaceShow(), a.workspaceWatch(),
		a.workspaceAct("delete", "Shred the workspace's key, then delete everything it has", http.MethodDelete, ""),
		a.workspaceAct("reboot", "Stop the guest, arm its generation again and start it", http.MethodPost, "/reboot"),
		a.workspaceAct("allow-reboot", "Lift the suspension of a generation for one boot", http.MethodPost, "/allow-reboot"),
		a.referenceValues("Save, signed, what the workspace's guest must measure", "/v1/workspaces/%s/reference-values"))
	return cmd
}

func (a *app) workspaceCreate() *cobra.Command {
	var wait bool
	var body struct {
		Name    string `json:"name"`
		Project string `json:"project"`
		Dataset string `json:"dataset"`
		Image   string `json:"image"`
		Site    string `json:"site"`
		Flavor  string `json:"flavor"`
		DataGiB int    `json:"data_gib"`
	}
	cmd := &cobra.Command{
		Use: "create NAME", Short: "Ask for a new workspace", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			body.Name = args[0]
			return a.start(cmd.Context(), http.MethodPost, "/v1/workspaces", body, wait)
		},
	}
	f := cmd.Flags()
	f.StringVar(&body.Project, "project", "", "project the work is for")
	f.StringVar(&body.Dataset, "dataset", "", "dataset that the project has a permit for")
	f.StringVar(&body.Image, "image", "", "id of an approved image")
	f.StringVar(&body.Site, "site", "", "cloud to run on")
	f.StringVar(&body.Flavor, "flavor", "", "size of the server, as the site calls it")
	f.IntVar(&body.DataGiB, "data-gib", 1, "size of the encrypted volume in GiB")
	f.BoolVar(&wait, "wait", false, "watch until it is ready")
	require(cmd, "project", "dataset", "image", "site", "flavor")
	return cmd
}

func (a *app) workspaceAct(verb, short, method, suffix string) *cobra.Command {
	var wait bool
	cmd := &cobra.Command{
		Use: verb + " ID", Short: short, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.start(cmd.Context(), method, "/v1/workspaces/"+url.PathEscape(args[0])+suffix, nil, wait)
		},
	}
	cmd.Flags().BoolVar(&wait, "wait", false, "watch until it is done")
	return cmd
}

// start sends a request that begins an operation, prints it, and with wait follows it to its end.
func (a *app) start(ctx context.Context, method, path string, body any, wait bool) error {
	service, err := a.connect(ctx)
	if err != nil {
		return err
	}
	answer, err := service.call(ctx, method, path, nil, body)
	if err != nil {
		return err
	}
	var op operationView
	if err := json.Unmarshal(answer, &op); err != nil {
		return fmt.Errorf("%s %s: unexpected answer: %w", method, path, err)
	}
	if wait {
		return a.follow(ctx, service, op.ID)
	}
	if a.printer().json {
		return a.printer().raw(answer)
	}
	return a.printer().fields("workspace", op.Workspace, "operation", op.ID, "state", op.State,
		"next", "siesta operation watch "+op.ID)
}

func (a *app) workspaceList() *cobra.Command {
	var project, state string
	cmd := &cobra.Command{
		Use: "list", Short: "List workspaces", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			query := filter("project", project, "state", state)
			return list(cmd.Context(), a, "/v1/workspaces", query, []string{"ID", "NAME", "STATE", "PROJECT", "SITE", "FLAVOR", "CREATED"},
				func(w workspaceView) []string {
					return []string{w.ID, w.Name, w.State, w.Project, w.Site, w.Flavor, w.CreatedAt.UTC().Format(time.RFC3339)}
				})
		},
	}
	cmd.Flags().StringVar(&project, "project", "", "only this project's")
	cmd.Flags().StringVar(&state, "state", "", "only in this state")
	return cmd
}

func (a *app) workspaceShow() *cobra.Command {
	return &cobra.Command{
		Use: "show ID", Short: "Show one workspace", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			service, err := a.connect(cmd.Context())
			if err != nil {
				return err
			}
			w, body, err := get[workspaceView](cmd.Context(), service, "/v1/workspaces/"+url.PathEscape(args[0]), nil)
			if err != nil {
				return err
			}
			if a.printer().json {
				return a.printer().raw(body)
			}
			simulated := ""
			if w.Simulated {
				simulated = "yes: this workspace protects nothing"
			}
			return a.printer().fields("id", w.ID, "name", w.Name, "state", w.State, "project", w.Project, "dataset", w.Dataset,
				"image", w.Image, "site", w.Site, "flavor", w.Flavor, "data", strconv.Itoa(w.DataGiB)+" GiB",
				"generation", strconv.Itoa(w.Generation), "simulated", simulated, "created", w.CreatedAt.UTC().Format(time.RFC3339))
		},
	}
}

func (a *app) workspaceWatch() *cobra.Command {
	return &cobra.Command{
		Use: "watch ID", Short: "Follow the newest operation of a workspace", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			service, err := a.connect(cmd.Context())
			if err != nil {
				return err
			}
			ops, _, err := get[page[operationView]](cmd.Context(), service, "/v1/operations", url.Values{"workspace": args})
			if err != nil {
				return err
			}
			if len(ops.Items) == 0 {
				return fmt.Errorf("workspace %s has no operation", args[0])
			}
			return a.follow(cmd.Context(), service, ops.Items[0].ID)
		},
	}
}

func (a *app) operation() *cobra.Command {
	cmd := &cobra.Command{Use: "operation", Aliases: []string{"op"}, Short: "Watch long work"}
	cmd.AddCommand(&cobra.Command{
		Use: "watch ID", Short: "Show the steps of an operation as they happen", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			service, err := a.connect(cmd.Context())
			if err != nil {
				return err
			}
			return a.follow(cmd.Context(), service, args[0])
		},
	}, &cobra.Command{
		Use: "show ID", Short: "Show an operation and its steps", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			service, err := a.connect(cmd.Context())
			if err != nil {
				return err
			}
			op, body, err := get[operationView](cmd.Context(), service, "/v1/operations/"+url.PathEscape(args[0]), nil)
			if err != nil {
				return err
			}
			if a.printer().json {
				return a.printer().raw(body)
			}
			var rows [][]string
			for _, s := range op.Steps {
				rows = append(rows, []string{s.Name, s.State, seconds(s.AgeSeconds), s.explain()})
			}
			return a.printer().table([]string{"STEP", "STATE", "TIME", "DETAIL"}, rows)
		},
	})
	return cmd
}

func (s stepView) explain() string {
	if s.Problem != nil {
		return s.Problem.Detail
	}
	return s.Detail
}

// follow prints each change of a step as one line until the operation ends; an operation that failed is an error.
func (a *app) follow(ctx context.Context, service api, id string) error {
	const pause = 500 * time.Millisecond
	seen := map[string]string{}
	for {
		op, body, err := get[operationView](ctx, service, "/v1/operations/"+url.PathEscape(id), nil)
		if err != nil {
			return err
		}
		for _, s := range op.Steps {
			now := s.State + "\x00" + s.explain()
			if s.State == "pending" || seen[s.Name] == now {
				continue
			}
			seen[s.Name] = now
			if !a.printer().json {
				fmt.Fprintf(a.out, "  %-10s %-16s %s\n", plain(s.State), plain(s.Name), plain(s.explain()))
			}
		}
		if op.ended() {
			return a.outcome(op, body)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

func (a *app) outcome(op operationView, body []byte) error {
	if a.printer().json {
		if err := a.printer().raw(body); err != nil {
			return err
		}
	} else {
		fmt.Fprintln(a.out, plain(fmt.Sprintf("%s of workspace %s: %s", op.Kind, op.Workspace, op.State)))
	}
	if op.State == "succeeded" {
		return nil
	}
	if op.Problem != nil && op.Problem.Detail != "" {
		return op.Problem
	}
	return fmt.Errorf("operation %s: %s", op.ID, op.State)
}

func (a *app) explain() *cobra.Command {
	type explanation struct {
		Facts []factView `json:"facts"`
		Stage string     `json:"stage"`
		Guest string     `json:"guest"`
		Next  string     `json:"next"`
	}
	return &cobra.Command{
		Use: "explain WORKSPACE", Short: "Say which facts allow a key release, and who can fix the others", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			service, err := a.connect(cmd.Context())
			if err != nil {
				return err
			}
			e, body, err := get[explanation](cmd.Context(), service, "/v1/workspaces/"+url.PathEscape(args[0])+"/explain", nil)
			if err != nil {
				return err
			}
			if a.printer().json {
				return a.printer().raw(body)
			}
			var rows [][]string
			for _, f := range e.Facts {
				holds := "no"
				if f.Holds {
					holds = "yes"
				}
				rows = append(rows, []string{f.Name, holds, f.Why, f.Fix})
			}
			if err := a.printer().table([]string{"FACT", "HOLDS", "WHY", "WHO CAN FIX IT"}, rows); err != nil {
				return err
			}
			return a.printer().fields("guest:", strings.TrimSuffix(e.Stage+": "+e.Guest, ": "), "next:", e.Next)
		},
	}
}
