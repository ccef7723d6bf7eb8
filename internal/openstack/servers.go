package openstack

import (
	"cmp"
	"context"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ServerSpec describes a server that boots from RootVolumeID. The port is its mutex: one port, one server.
type ServerSpec struct {
	Name         string
	FlavorID     string
	PortID       string
	RootVolumeID string
	DataVolumeID string
	Metadata     map[string]string
}

// Server is a Nova server.
type Server struct {
	ID, Name  string
	Status    string // BUILD, ACTIVE, SHUTOFF, ERROR, SOFT_DELETED, …
	TaskState string // empty: nothing is going on
	VMState   string
	Fault     string // bounded text of the last fault, where the status is ERROR
	FaultCode int
	Metadata  map[string]string
	Volumes   []string
	CreatedAt time.Time

	// FlavorSpecs are the extra specs that Nova embedded in the server when it was made.
	FlavorSpecs map[string]string
	FlavorVCPUs int
}

// Err says, as a classified error, why the server is in ERROR; nil otherwise. "No valid host" is Quota: another time, or
// another server, may find room.
func (s Server) Err() error {
	if s.Status != "ERROR" {
		return nil
	}
	e := &Error{Kind: Permanent, Service: compute.name, Op: "waiting for server", Object: s.Name, Status: 0, Reason: cmp.Or(s.Fault, "its status is ERROR")}
	fault := strings.ToLower(s.Fault)
	for _, phrase := range []string{"no valid host", "exceeded maximum number of retries", "quota exceeded", "insufficient compute resources"} {
		if strings.Contains(fault, phrase) {
			e.Kind = Quota
		}
	}
	return e
}

type serverWire struct {
	ID        string            `json:"id"`
	Name      string            `json:"name"`
	Status    string            `json:"status"`
	TaskState *string           `json:"OS-EXT-STS:task_state"`
	VMState   string            `json:"OS-EXT-STS:vm_state"`
	Metadata  map[string]string `json:"metadata"`
	Created   string            `json:"created"`
	Fault     struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	} `json:"fault"`
	Volumes []struct {
		ID string `json:"id"`
	} `json:"os-extended-volumes:volumes_attached"`
	Flavor struct {
		VCPUs      int               `json:"vcpus"`
		ExtraSpecs map[string]string `json:"extra_specs"`
	} `json:"flavor"`
}

func (w serverWire) check(op, asked string) (Server, error) {
	if !uuidForm.MatchString(w.ID) || len(w.Metadata) > 256 || len(w.Volumes) > 64 || len(w.Flavor.ExtraSpecs) > 256 {
		return Server{}, unusable(compute, op, asked, "the answer is not a server")
	}
	s := Server{
		ID: w.ID, Name: clean(w.Name, 255), Status: clean(w.Status, 32), VMState: clean(w.VMState, 32),
		Fault: clean(w.Fault.Message, 240), FaultCode: w.Fault.Code, Metadata: w.Metadata,
		FlavorSpecs: w.Flavor.ExtraSpecs, FlavorVCPUs: w.Flavor.VCPUs,
	}
	if w.TaskState != nil {
		s.TaskState = clean(*w.TaskState, 64)
	}
	s.CreatedAt, _ = time.Parse(time.RFC3339, w.Created)
	for _, v := range w.Volumes {
		s.Volumes = append(s.Volumes, clean(v.ID, 36))
	}
	return s, nil
}

// EnsureServer finds the server that holds the port, or bears the name, or creates it. It does not wait for ACTIVE.
//
// The port is the mutex: Nova refuses a port that has a device, and of two requests that raced past that check one ends
// in ERROR, without the port. A port gets its device only when a host binds it, so until then the name decides. If the
// process dies after the POST, the next call finds the server by either.
func (c *Client) EnsureServer(ctx context.Context, spec ServerSpec) (Server, error) {
	const op = "creating server"
	if err := c.nameable(compute.name, op, spec.Name); err != nil {
		return Server{}, err
	}
	for _, id := range []string{spec.PortID, spec.RootVolumeID, spec.DataVolumeID} {
		if err := identifier(compute, op, id); err != nil {
			return Server{}, err
		}
	}
	if !flavorID.MatchString(spec.FlavorID) || len(spec.Metadata) > 32 {
		return Server{}, unusable(compute, op, spec.Name, "a server needs a flavor, and at most 32 metadata")
	}
	held, found, err := c.serverOf(ctx, op, spec)
	if err != nil {
		return Server{}, err
	}
	if len(found) == 0 {
		posted := c.send(ctx, request{
			service: compute, op: op, object: spec.Name, method: "POST",
			path: []string{"servers"}, body: spec.body(), ok: []int{202},
		})
		// A refusal may be a twin's doing: it took the port (Conflict), or reserved the volumes, which Nova calls a bad
		// request. So whatever was answered, what is there now decides.
		if kind := KindOf(posted); kind == Retryable || kind == Forbidden || kind == Quota {
			return Server{}, posted
		}
		if held, found, err = c.serverOf(ctx, op, spec); err != nil {
			return Server{}, err
		}
		if len(found) == 0 {
			if posted == nil {
				posted = &Error{Kind: Ambiguous, Service: compute.name, Op: op, Object: spec.Name, Reason: "it is not to be found after its creation"}
			}
			return Server{}, posted
		}
	}
	keep := found[0]
	for k, want := range spec.Metadata {
		if keep.Metadata[k] != want {
			return Server{}, unusable(compute, op, spec.Name, "a server of that name carries other metadata")
		}
	}
	for _, loser := range found[1:] {
		if loser.ID == held {
			continue
		}
		if err := c.deleteServer(ctx, "deleting duplicate server", loser); err != nil {
			return Server{}, err
		}
	}
	return keep, nil
}

func (s ServerSpec) body() map[string]any {
	disk := func(id string, index int) map[string]any {
		return map[string]any{"uuid": id, "source_type": "volume", "destination_type": "volume", "boot_index": index, "delete_on_termination": false}
	}
	return map[string]any{"server": map[string]any{
		"name":                    s.Name,
		"flavorRef":               s.FlavorID,
		"networks":                []map[string]any{{"port": s.PortID}},
		"block_device_mapping_v2": []map[string]any{disk(s.RootVolumeID, 0), disk(s.DataVolumeID, -1)},
		"metadata":                s.Metadata,
		"config_drive":            false, // a host's words to the guest, which it would not believe
		"min_count":               1,
		"max_count":               1,
	}}
}

// serverOf lists the servers that this spec can mean, the one to keep first: the holder of the port, else the oldest
// that is not in ERROR. It fails where the port is in the hands of a server of another name.
func (c *Client) serverOf(ctx context.Context, op string, spec ServerSpec) (held string, found []Server, err error) {
	port, err := c.Port(ctx, spec.PortID)
	if err != nil {
		return "", nil, err
	}
	held = port.DeviceID
	if found, err = c.serversByName(ctx, op, spec.Name); err != nil {
		return "", nil, err
	}
	slices.SortFunc(found, func(a, b Server) int {
		return cmp.Or(
			rank(b.ID == held)-rank(a.ID == held),
			rank(a.Status == "ERROR")-rank(b.Status == "ERROR"),
			a.CreatedAt.Compare(b.CreatedAt),
			cmp.Compare(a.ID, b.ID))
	})
	if held != "" && (len(found) == 0 || found[0].ID != held) {
		return "", nil, &Error{Kind: Conflict, Service: compute.name, Op: op, Object: spec.Name, Reason: "its port is held by another server"}
	}
	return held, found, nil
}

func rank(b bool) int {
	if b {
		return 1
	}
	return 0
}

// serversByName lists the servers of exactly that name, without those that are gone or going for good.
func (c *Client) serversByName(ctx context.Context, op, name string) ([]Server, error) {
	var doc struct{ Servers []serverWire }
	// Nova's filter is a regular expression.
	query := url.Values{"name": {"^" + regexp.QuoteMeta(name) + "$"}, "limit": {"100"}}
	if err := c.get(ctx, compute, op, name, query, &doc, "servers", "detail"); err != nil {
		return nil, err
	}
	var found []Server
	for _, w := range doc.Servers {
		if w.Name != name || w.Status == "DELETED" || w.TaskState != nil && *w.TaskState == "deleting" {
			continue
		}
		s, err := w.check(op, name)
		if err != nil {
			return nil, err
		}
		found = append(found, s)
	}
	return found, nil
}

// Server reads one server.
func (c *Client) Server(ctx context.Context, id string) (Server, error) {
	const op = "reading server"
	if err := identifier(compute, op, id); err != nil {
		return Server{}, err
	}
	var doc struct{ Server serverWire }
	if err := c.get(ctx, compute, op, id, nil, &doc, "servers", id); err != nil {
		return Server{}, err
	}
	if doc.Server.ID != id {
		return Server{}, unusable(compute, op, id, "another server came back")
	}
	if doc.Server.Status == "DELETED" {
		return Server{}, &Error{Kind: NotFound, Service: compute.name, Op: op, Object: id}
	}
	return doc.Server.check(op, id)
}

// ServerByName finds a server by exact name; NotFound where there is none, Conflict where there are several.
func (c *Client) ServerByName(ctx context.Context, name string) (Server, error) {
	const op = "finding server"
	found, err := c.serversByName(ctx, op, name)
	if err != nil {
		return Server{}, err
	}
	switch len(found) {
	case 0:
		return Server{}, &Error{Kind: NotFound, Service: compute.name, Op: op, Object: clean(name, 63)}
	case 1:
		return found[0], nil
	}
	return Server{}, &Error{Kind: Conflict, Service: compute.name, Op: op, Object: clean(name, 63), Reason: "several bear the name"}
}

func (c *Client) serverAction(ctx context.Context, op, id, action string, argument any) error {
	if err := identifier(compute, op, id); err != nil {
		return err
	}
	return c.send(ctx, request{
		service: compute, op: op, object: id, method: "POST", path: []string{"servers", id, "action"},
		body: map[string]any{action: argument}, ok: []int{200, 202}, repeatable: true,
	})
}

// power asks for a state, and takes it as success that the server is in it already, or on its way.
func (c *Client) power(ctx context.Context, op, id, action, status, task string) error {
	err := c.serverAction(ctx, op, id, action, nil)
	if KindOf(err) != Conflict {
		return err
	}
	s, lookup := c.Server(ctx, id)
	if lookup != nil {
		return lookup
	}
	if s.Status == status && s.TaskState == "" || s.TaskState == task {
		return nil
	}
	return err
}

// StopServer asks for an orderly stop (ACPI, then power off). A server that is stopped already is success. It returns once
// the stop is accepted: the server is stopped when its status is SHUTOFF.
func (c *Client) StopServer(ctx context.Context, id string) error {
	return c.power(ctx, "stopping server", id, "os-stop", "SHUTOFF", "powering-off")
}

// StartServer starts a stopped server. A server that runs already is success.
func (c *Client) StartServer(ctx context.Context, id string) error {
	return c.power(ctx, "starting server", id, "os-start", "ACTIVE", "powering-on")
}

const maxConsoleLines = 10000

// ConsoleLog returns the last lines of the server's console, bounded.
func (c *Client) ConsoleLog(ctx context.Context, id string, lines int) (string, error) {
	const op = "reading console of server"
	if err := identifier(compute, op, id); err != nil {
		return "", err
	}
	var doc struct {
		Output string `json:"output"`
	}
	err := c.send(ctx, request{
		service: compute, op: op, object: id, method: "POST", path: []string{"servers", id, "action"},
		body: map[string]any{"os-getConsoleOutput": map[string]any{"length": strconv.Itoa(min(max(lines, 1), maxConsoleLines))}},
		out:  &doc, ok: []int{200}, repeatable: true,
	})
	if err != nil {
		return "", err
	}
	return doc.Output, nil
}

// DeleteServer deletes a server of this installation, one that is softly deleted for good; absence is success. It
// returns once the deletion is accepted: the server is gone when Server answers NotFound.
func (c *Client) DeleteServer(ctx context.Context, id string) error {
	const op = "deleting server"
	s, err := c.Server(ctx, id)
	if ours, err := c.mayDelete(compute, op, id, s.Name, err); !ours {
		return err
	}
	return c.deleteServer(ctx, op, s)
}

func (c *Client) deleteServer(ctx context.Context, op string, s Server) error {
	if s.Status == "SOFT_DELETED" {
		// The site keeps deleted servers for a while; their memory and disks would live on.
		err := c.serverAction(ctx, op, s.ID, "forceDelete", nil)
		if KindOf(err) == NotFound {
			return nil
		}
		return err
	}
	if s.TaskState == "deleting" {
		return nil
	}
	return c.remove(ctx, compute, op, s.ID, "servers", s.ID)
}
