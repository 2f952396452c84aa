r"""The commands of LaTeX, one by one: none costs time, and none is read as a shorter one that it begins with."""

from __future__ import annotations

import gc
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

_NAMES = r"""
    above acute aleph alpha amalg angle approx approxeq arccos arcsin arctan arg arrowvert ast asymp atop
    backepsilon backprime backsim backsimeq backslash bar barwedge because begin beta beth between bf Big big bigcap
    bigcirc bigcup Bigg bigg Biggl biggl Biggm biggm Biggr biggr Bigl bigl Bigm bigm bigodot bigoplus bigotimes Bigr
    bigr bigsqcup bigstar bigtriangledown bigtriangleup biguplus bigvee bigwedge binom blacklozenge blacksquare
    blacktriangle blacktriangledown blacktriangleleft blacktriangleright bmatrix bmod boldmath boldsymbol bot bowtie
    Box boxdot boxed boxminus boxplus boxtimes brace bracevert brack breve bullet Bumpeq bumpeq cal cancel Cap cap
    caption cases cdot cdotp cdots celsius centerdot cfrac check checkmark chi choose circ circeq circlearrowleft
    circlearrowright circledast circledcirc circleddash circledR circledS clubsuit colon color complement cong
    coprod copyright cos cosh cot coth cr csc Cup cup cupdot curlyeqprec curlyeqsucc curlyvee curlywedge
    curvearrowleft curvearrowright dagger daleth dashleftarrow dashrightarrow dashv dbinom ddagger ddddot dddot ddot
    ddots deg degree Delta delta det dfrac diagdown diagup Diamond diamond diamondsuit digamma dim displaylimits
    displaystyle div divideontimes dollar dot Doteq doteq doteqdot dotplus dots dotsb dotsc dotsi dotsm dotso
    doublebarwedge doublecap doublecup Downarrow downarrow downdownarrows downharpoonleft downharpoonright ell em
    emph empty emptyset end enskip enspace ensuremath epsilon eqcirc eqref eqsim eqslantgtr eqslantless equiv eta
    eth exists exp fallingdotseq fbox Finv flat footnotesize forall frac frak frown Game Gamma gamma gcd ge genfrac
    geq geqq geqslant gg ggg gggtr gimel gnapprox gneq gneqq gnsim grave gt gtrapprox gtrdot gtreqless gtreqqless
    gtrless gtrsim gvertneqq hat hbar hbox heartsuit hline hom hookleftarrow hookrightarrow hphantom hskip hslash
    hspace Huge huge idotsint iff iiiint iiint iint Im imath impliedby implies in inf infty injlim int intercal
    intertext iota isinf it jmath jot kappa ker kern kg kilo label Lambda lambda land langle LARGE Large large
    lbrace lbrack lceil ldotp ldots le leadsto left Leftarrow leftarrow leftarrowtail leftharpoondown leftharpoonup
    leftleftarrows Leftrightarrow leftrightarrow leftrightarrows leftrightharpoons leftrightsquigarrow
    leftthreetimes leq leqq leqslant lessapprox lessdot lesseqgtr lesseqqgtr lessgtr lesssim lfloor lg lgroup lhd
    lim liminf limits limsup ll llap llcorner Lleftarrow lll llless lmoustache ln lnapprox lneq lneqq lnot lnsim log
    Longleftarrow longleftarrow Longleftrightarrow longleftrightarrow longmapsto Longrightarrow longrightarrow
    looparrowleft looparrowright lor lower lozenge lrcorner Lsh lt ltimes lVert lvert lvertneqq maltese mapsto
    mathbb mathbf mathbin mathcal mathchoice mathclose mathfrak mathinner mathit mathop mathopen mathord mathpunct
    mathrel mathring mathrm mathscr mathsf mathstrut mathtt matrix max mbox measuredangle medspace mho mid middle
    min minuscolon mkern mleft mod models moveleft moveright mp mright mskip mspace mu multicolumn multimap nabla
    natural ncong ne nearrow neg negmedspace negthickspace negthinspace neq newline nexists ngeq ngeqq ngeqslant
    ngtr ni nLeftarrow nleftarrow nLeftrightarrow nleftrightarrow nleq nleqq nleqslant nless nmid nobreak
    nobreakspace nolimits nonumber normalsize not notag notin nparallel nprec npreceq nRightarrow nrightarrow
    nshortmid nshortparallel nsim nsubseteq nsubseteqq nsucc nsucceq nsupseteq nsupseteqq ntriangleleft
    ntrianglelefteq ntriangleright ntrianglerighteq nu num numrange nVDash nVdash nvDash nvdash odot oiint oint
    Omega omega ominus operatorname oplus oslash otimes over overbrace overbracket overleftarrow overleftrightarrow
    overline overparen overrightarrow overset owns parallel parbox partial perp phantom Phi phi Pi pi pitchfork pm
    pmatrix pmb pmod pod Pr prec precapprox preccurlyeq preceq precnapprox precneqq precnsim precsim prime prod
    projlim propto protect Psi psi qquad qty quad raise raisebox rangle rbrace rbrack rceil Re ref restriction
    rfloor rgroup rhd rho right Rightarrow rightarrow rightarrowtail rightharpoondown rightharpoonup rightleftarrows
    rightleftharpoons rightrightarrows rightsquigarrow rightthreetimes risingdotseq rlap rm rmoustache root
    Rrightarrow Rsh rtimes rule rVert rvert scriptscriptstyle scriptsize scriptstyle searrow sec setminus sf sgn
    sharp shortmid shortparallel SI si sideset Sigma sigma sim simeq sin sinh skew small smallfrown smallint
    smallsetminus smallsmile smash smile space spadesuit sphericalangle sqcap sqcup sqrt sqsubset sqsubseteq
    sqsupset sqsupseteq square stackrel star strut style Subset subset subseteq subseteqq subsetneq subsetneqq
    substack succ succapprox succcurlyeq succeq succnapprox succneqq succnsim succsim sum sup Supset supset supseteq
    supseteqq supsetneq supsetneqq surd swarrow tag tan tanh tau tbinom text textbf textcolor textit textmd
    textnormal textrm textsc textsf textsl textstyle textsuperscript texttt textup tfrac therefore Theta theta
    thickapprox thicksim thickspace thinspace tilde times tiny to top triangle triangledown triangleleft
    trianglelefteq triangleq triangleright trianglerighteq tt twoheadleftarrow twoheadrightarrow ulcorner unboldmath
    underbrace underbracket underleftarrow underleftrightarrow underline underparen underrightarrow underset unit
    unlhd unrhd Uparrow uparrow Updownarrow updownarrow upharpoonleft upharpoonright uplus Upsilon upsilon
    upuparrows urcorner varDelta varepsilon varGamma varinjlim varkappa varLambda varliminf varlimsup varnothing
    varOmega varPhi varphi varPi varpi varprojlim varpropto varPsi varrho varSigma varsigma varsubsetneq
    varsubsetneqq varsupsetneq varsupsetneqq varTheta vartheta vartriangle vartriangleleft vartriangleright
    varUpsilon varXi vcenter Vdash vDash vdash vdots vec vee veebar verb Vert vert vline vphantom Vvdash wedge
    widehat widetilde wp wr Xi xi xleftarrow xrightarrow yen zeta
"""
COMMANDS = _NAMES.split()
"""Of LaTeX2e, amsmath, amssymb, siunitx and what people define."""
SHAPES = (
    r"\@", r"2\@ 7", r"n\@{7}", r"\@{a}{b}", r"x_{\@}", r"a^\@", r"\@x", r"3\@ x\@ y", r"(\@ 1,2]", r"\frac{\@ 1}{2}",
    r"x\@y=\@ 1",
)  # fmt: skip
SAME_MEANING = (
    {"big", "Big", "bigg", "Bigg", *(f"{size}{side}" for size in ("big", "Big", "bigg", "Bigg") for side in "lmr")},
    {"dot", "dots", "dotsb", "dotsc", "dotsi", "dotsm", "dotso"},
    {"cdot", "cdots"},
    {"text", "textcolor"},
    {"ge", "geq", "geqq", "geqslant"},
    {"le", "leq", "leqq", "leqslant"},
    {"ne", "neq"},
    {"mathop", "mathopen"},
    {"text", "textbf", "textit", "textmd", "textnormal", "textrm", "textsc", "textsf", "textsl", "textstyle", "texttt",
     "textup"},
    {"leftrightarrow", "leftrightarrows"},
    {"subset", "subseteq", "subseteqq", "supset", "supseteq", "supseteqq"},
)  # fmt: skip
"""One may be graded as the other: they say the same, or nothing."""
LIMIT_S = 0.05
HANG_S = 3.0
TRIES = 4


class HangsError(BaseException):
    """Not an `Exception`, which readers may take for "cannot be read"."""


@contextmanager
def stopped() -> Iterator[None]:
    """A job here is in this process, which nobody kills."""

    def stop(*_: object) -> None:
        raise HangsError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, HANG_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def nothing_said() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        if "is not an answer: it has neither letters nor digits" not in str(error):
            raise


def forget() -> None:
    """Empty the caches, so that a second measurement reads again."""
    for name, module in list(sys.modules.items()):
        if name.startswith("verl_ext.rewards"):
            for value in vars(module).values():
                getattr(value, "cache_clear", lambda: None)()


def seconds(task: Callable[[], object]) -> float:
    """Of the processor, the least of some tries.

    A pause of the collector, and the tables that the parser builds at the first formula of a shape, are no cost of the
    text: what is too slow is read again, after a formula that has built the tables.
    """
    from verl_ext.rewards._grading import grade

    taken = []
    for _ in range(TRIES):
        start = time.process_time()
        # A ground truth that is layout only is refused by name.
        with stopped(), nothing_said():
            task()
        taken.append(time.process_time() - start)
        if taken[-1] < LIMIT_S:
            break
        forget()
        for warm in SHAPES:
            grade(warm.replace("@", "sum"), "7")
        gc.collect()
    return min(taken)


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_costs_time_or_ends_in_an_error(command: str) -> None:
    from verl_ext.rewards._grading import grade, kind

    slow = {}
    for shape in SHAPES:
        text = shape.replace("@", command)
        slow[f"answer {text}"] = seconds(lambda text=text: grade(text, "7"))
        slow[f"truth {text}"] = seconds(lambda text=text: grade("8", text))
        slow[f"kind {text}"] = seconds(lambda text=text: kind(text))
    assert {text: taken for text, taken in slow.items() if taken >= LIMIT_S} == {}


def prefixes() -> Iterator[tuple[str, str]]:
    """Each command with each other one that it begins with."""
    known = frozenset(COMMANDS)
    return ((name, name[:end]) for name in COMMANDS for end in range(1, len(name)) if name[:end] in known)


@pytest.mark.parametrize(("command", "prefix"), prefixes())
def test_no_command_is_read_as_one_that_it_begins_with(command: str, prefix: str) -> None:
    from verl_ext.rewards._grading import grade

    rest = command[len(prefix) :]
    pairs = [(rf"\frac{{1}}{{2}}\{prefix} {rest}", rf"0.5\{command}"), (rf"x\{prefix} {rest}", rf"x\{command}")]
    if not any({command, prefix} <= same for same in SAME_MEANING):
        pairs += [(rf"\frac{{1}}{{2}}\{prefix} x", rf"0.5\{command} x"), (rf"x\{prefix}{{7}}", rf"x\{command}{{7}}")]
    with stopped():
        same = [pair for pair in pairs if grade(pair[1], pair[0]) == "correct"]
    assert same == []


def test_the_list_is_long_and_sorted() -> None:
    assert len(COMMANDS) >= 500
    assert sorted(set(COMMANDS), key=lambda name: (name.lower(), name)) == COMMANDS
