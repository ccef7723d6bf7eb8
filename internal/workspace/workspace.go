package workspace

import (
	"errors"
	"time"

	"github.com/eosc-siesta/siestad/internal/flow"
	"github.com/eosc-siesta/siestad/internal/permit"
)

// State of a workspace; see the package comment.
type State string

// States of a workspace.
const (
	Creating  State = "creating"
	Ready     State = "ready"
	Stopped   State = "stopped"
	Suspended State = "suspended"
	Rebooting State = "rebooting"
	Deleting  State = "deleting"
	Deleted   State = "deleted"
	Failed    State = "failed"
)

// Errors that callers branch on.
var (
	ErrNotFound = errors.New("not found")
	ErrState    = errors.New("not possible in this state")
	ErrInvalid  = errors.New("invalid")
	// ErrBusy: another operation on the workspace is running.
	ErrBusy = errors.New("another operation is running")
)

// Refused says which of the facts do not allow a workspace to start. Nothing was made.
type Refused struct {
	Facts []permit.NamedFact // only those that do not hold
}

func (r *Refused) Error() string {
	if len(r.Facts) == 0 {
		return "refused"
	}
	return r.Facts[0].Why
}

// CreateSpec is what a researcher asks for.
type CreateSpec struct {
	Name    string // 1 to 100 characters, for people
	Project string
	Dataset string
	Image   string
	Site    string
	Flavor  string
	DataGiB int
	// Request is the id of the HTTP request, for the audit entries of everything that follows from it.
	Request string
}

// Workspace is one workspace as its row stands.
type Workspace struct {
	ID         string
	Name       string
	Project    string
	Dataset    string
	Image      string
	Site       string
	Flavor     string
	DataGiB    int
	Owner      string // subject of who asked for it
	State      State
	Generation int
	// Reason says why it is failed, stopped or suspended, and what to do; nil otherwise.
	Reason *flow.Problem
	// Simulated marks a workspace on a site whose TEE is simulated.
	Simulated bool
	// Line is the measured command line, Measurements the launch digests (hex) that it may give; on TDX the values of MRTD, RTMR1
	// and RTMR2, each behind its register's name. Empty before "bind".
	Line         string
	Measurements []string
	ServerID     string
	DataVolumeID string
	Version      int64
	CreatedAt    time.Time
	UpdatedAt    time.Time
	ReadyAt      *time.Time
	DeletedAt    *time.Time
}

// OperationState is where an operation stands.
type OperationState string

// States of an operation. A parked one waits for a person.
const (
	Running         OperationState = "running"
	Unwinding       OperationState = "unwinding"
	OperationParked OperationState = "parked"
	Succeeded       OperationState = "succeeded"
	OperationFailed OperationState = "failed"
)

// Operation is long work on a workspace.
type Operation struct {
	ID        string
	Kind      string // create, reboot, delete
	Workspace string
	Project   string
	State     OperationState
	// Detail says in words what it waits for.
	Detail    string
	Problem   *flow.Problem // why it failed, unwinds or is parked
	Steps     []OperationStep
	CreatedAt time.Time
	EndedAt   *time.Time
}

// OperationStep is one step of an operation.
type OperationStep struct {
	Name      string
	State     string // pending, running, waiting, succeeded, failed, undoing, undone
	StartedAt *time.Time
	EndedAt   *time.Time
	Detail    string
	Problem   *flow.Problem
}

// Filter selects workspaces for List. Empty fields do not restrict.
type Filter struct {
	Projects []string // only these; nil means all projects
	Owner    string
	Site     string
	State    State
	// After is the id of the last workspace of the previous page; Limit at most 1000, 0 means 100.
	After string
	Limit int
}

// Explanation answers which of the facts of a key release hold for a workspace, and who can fix the rest.
type Explanation struct {
	Workspace Workspace
	Facts     []permit.NamedFact
	// Stage is how far the guest has come: attested, unlocked, ready, failed, stopping or empty.
	Stage string
	// Guest is what the guest said of itself with that stage, such as how often it has booted from its volume.
	Guest string
	// Refusal is the code of the last refused release and Decision its id; empty if there was none.
	Refusal   string
	Decision  string
	Suspended bool
	// Destruction says how far the key's destruction has come; empty while it lives.
	Destruction string
	// Next says in one sentence what would get the workspace going, and who can do it.
	Next string
}
