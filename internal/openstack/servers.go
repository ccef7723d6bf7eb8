package openstack

import (
	"context"
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
	// ImageProperties are what Nova boots with, where the site's release shows them (microversion 2.98).
	ImageProperties map[string]string
}

// Err says, as a classified error, why the server is in ERROR; nil otherwise. "No valid host" is Quota.
func (s Server) Err() error { return nil }

// EnsureServer finds the server that holds the port, or bears the name, or creates it. It does not wait for ACTIVE.
func (c *Client) EnsureServer(ctx context.Context, spec ServerSpec) (Server, error) {
	return Server{}, errUnwritten
}

// Server reads one server.
func (c *Client) Server(ctx context.Context, id string) (Server, error) {
	return Server{}, errUnwritten
}

// ServerByName finds a server by exact name; NotFound where there is none, Conflict where there are several.
func (c *Client) ServerByName(ctx context.Context, name string) (Server, error) {
	return Server{}, errUnwritten
}

// StopServer asks for an orderly stop (ACPI, then power off). A server that is stopped already is success.
func (c *Client) StopServer(ctx context.Context, id string) error { return errUnwritten }

// StartServer starts a stopped server. A server that runs already is success.
func (c *Client) StartServer(ctx context.Context, id string) error { return errUnwritten }

// ConsoleLog returns the last lines of the server's console, bounded.
func (c *Client) ConsoleLog(ctx context.Context, id string, lines int) (string, error) {
	return "", errUnwritten
}

// DeleteServer deletes a server of this installation, one that is softly deleted for good; absence is success. It
// returns once the deletion is accepted: the server is gone when Server answers NotFound.
func (c *Client) DeleteServer(ctx context.Context, id string) error { return errUnwritten }
