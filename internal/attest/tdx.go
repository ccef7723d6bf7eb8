package attest

// tdxTable is the list of TDX checks in their order of precedence; it begins with
// the three that all TEEs share.
var tdxTable = []Check{
	checkTime:   {Name: "time of the verdict", Code: CodeCollateral, Source: fromCode},
	checkTEE:    {Name: "kind of evidence", Code: CodeFormat, Source: fromCode},
	checkLayout: {Name: "quote layout", Code: CodeFormat, Source: fromCode},
}

// TDXCollateral is what Intel says of its platforms.
type TDXCollateral struct{}

// TDXPolicy is what a trust domain must be; see Policy.
type TDXPolicy struct{}

// TDXResult is what a genuine quote within policy says.
type TDXResult struct{}

// tdx judges a quote. The result means something only if no check failed.
func (j *judgement) tdx(Evidence) *Result {
	j.fail(checkLayout, "", "", "quotes cannot be judged yet")
	return nil
}

// objects lists the collateral as Intel published it.
func (c *TDXCollateral) objects() []Object { return nil }

// newTDXCollateral reads Intel's objects; others are not among them.
func newTDXCollateral([]Object) (*TDXCollateral, error) { return &TDXCollateral{}, nil }

// narrows says whether everything that p admits is admitted by parent.
func (p *TDXPolicy) narrows(*TDXPolicy) error { return nil }
