"""Discovery, isolation and conflicts, on distributions that each test writes to disk."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest

from fxcli import NoOptions, hookimpl
from fxcli.errors import MissingDependency, PluginError, UnknownName
from fxcli.model.classifier import build_backbone
from fxcli.recipe.schema import Model
from fxcli.zoo import plugins
from fxcli.zoo.plugins import AmbiguousName, Plugin, Zoo

# Anew at each call: fixtures of the session add to the zoo of this process, which must stay as it is.
load_zoo = plugins.load_zoo.__wrapped__


PREAMBLE = """
from dataclasses import replace
from fxcli import *
from fxcli import hookimpl
def spec(name, **values):
    stages = (Stage(name="all", modules=("",), stride=8, channels=8),)
    return replace(BackboneSpec(name=name, build=print, num_features=8, stages=stages), **values)
"""


class Site:
    """A folder on sys.path that distributions are written to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.modules: list[str] = []

    def add(self, code: str, *, entry: str = "one", dist: str = "dist-one", points: str | None = None) -> str:
        module = f"fxt_{len(self.modules)}"
        self.modules.append(module)
        (self.folder / f"{module}.py").write_text(PREAMBLE + textwrap.dedent(code), encoding="utf-8")
        info = self.folder / f"{dist.replace('-', '_')}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: 1.2\n", encoding="utf-8")
        points = points if points is not None else f"[fx.plugins]\n{entry} = {module}\n"
        (info / "entry_points.txt").write_text(points, encoding="utf-8")
        return module


def registering(*names: str) -> str:
    calls = "\n".join(f"    register(spec({name!r}))" for name in names)
    return f"@hookimpl\ndef fx_register_backbones(register):\n{calls}\n"


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.delenv("FX_DISABLE_PLUGINS", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    site = Site(tmp_path)
    yield site
    for module in site.modules:
        sys.modules.pop(module, None)


def plugin(zoo: Zoo, name: str) -> Plugin:
    (found,) = [plugin for plugin in zoo.plugins if plugin.name == name]
    return found


def failure(site: Site, code: str) -> Plugin:
    site.add(code)
    zoo = load_zoo()
    found = plugin(zoo, "one")
    assert found.status == "failed"
    assert found.error is not None
    assert zoo.provider("backbone", "resnet50").name == "fx", "the others are there"
    assert zoo.pm.get_plugin("one") is None
    return found


def test_the_zoo_is_made_once_and_holds_its_manager():
    assert plugins.load_zoo() is plugins.load_zoo()
    assert load_zoo().pm.project_name == "fx"


@pytest.mark.parametrize("_", ["first", "again"])
def test_what_others_added_to_the_zoo_stays_there(demo_zoo, request, _):
    assert "demo_tiny" in plugins.load_zoo().backbones()
    request.getfixturevalue("site").add(registering("alpha"))
    assert "alpha" in load_zoo().backbones()
    assert "alpha" not in plugins.load_zoo().backbones()


def test_built_in_plugin_goes_through_the_public_hook(site):
    zoo = load_zoo()
    assert zoo.plugins[0].name == "fx"
    assert zoo.plugins[0].hooks == ("fx_register_backbones", "fx_register_detectors")
    assert zoo.provider("backbone", "resnet50") is zoo.plugins[0]


def test_a_plugin_is_found_with_distribution_version_and_hooks(site):
    module = site.add(registering("alpha", "beta"))
    zoo = load_zoo()
    assert plugin(zoo, "one") == Plugin(
        name="one", distribution="dist-one", version="1.2", module=module, hooks=("fx_register_backbones",)
    )
    assert zoo.backbone("alpha").name == "alpha"
    assert zoo.backbone("one/alpha") is zoo.backbone("alpha")
    assert zoo.backbones()["beta"].name == "beta"
    assert zoo.provider("backbone", "one/beta").name == "one"


def test_pretrainers_and_detectors(site):
    site.add("""
        @hookimpl
        def fx_register_pretrainers(register):
            register(PretrainerSpec(name="contrast", views=print, build=print, summary="s"))
        @hookimpl
        def fx_register_detectors(register):
            register(DetectorSpec(name="boxer", build=print))
        """)
    zoo = load_zoo()
    assert zoo.pretrainer("contrast").summary == "s"
    assert zoo.detector("boxer").options is NoOptions
    assert set(zoo.pretrainers()) >= {"contrast"}
    assert set(zoo.detectors()) >= {"boxer"}
    assert zoo.provider("detector", "boxer") is zoo.provider("pretrainer", "contrast")
    with pytest.raises(UnknownName, match="unknown detector 'boxr' — did you mean boxer"):
        zoo.detector("boxr")
    with pytest.raises(UnknownName, match="unknown pretrainer 'nothing'"):
        zoo.pretrainer("nothing")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import fx_no_such_module", "ModuleNotFoundError: No module named 'fx_no_such_module'"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def broken(:", "SyntaxError: invalid syntax"),
    ],
)
def test_failure_at_import(site, code, reason):
    found = failure(site, code)
    assert (found.stage, found.reason) == ("import", reason)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (
            "@hookimpl\ndef fx_register_backbone(register): pass",
            "fx has no hook fx_register_backbone — did you mean fx_register_backbones?",
        ),
        ("@hookimpl\ndef wrong(register): pass", "fx has no hook wrong"),
        (
            "@hookimpl(specname='fx_registr_detectors')\ndef f(register): pass",
            "did you mean fx_register_detectors?",
        ),
        ("def fx_register_backbones(register): pass", "fx_register_backbones lacks the decorator @hookimpl"),
        ("", "implements no hook of fx"),
        ("@hookimpl\ndef fx_register_backbones(registre): pass", "registre"),
        (
            "@hookimpl\ndef fx_register_backbones(register=None): pass",
            "fx_register_backbones: the argument register must not have a default",
        ),
    ],
)
def test_failure_at_hook_check(site, code, reason):
    found = failure(site, code)
    assert found.stage == "hooks"
    assert reason in found.reason
    assert "\n" not in found.reason


def test_an_optional_hook_of_another_version_is_allowed(site):
    site.add(registering("alpha") + "@hookimpl(optionalhook=True)\ndef fx_of_the_future(x): pass")
    assert plugin(load_zoo(), "one").hooks == ("fx_register_backbones",)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("raise RuntimeError('first\\nlast')", "last"),
        ("raise SystemExit", "SystemExit"),
        ("register(spec('a')); raise ValueError('halfway')", "ValueError: halfway"),
        ("register('resnet')", "str was given where BackboneSpec or BackboneFamily is wanted"),
        ("register(DetectorSpec(name='d', build=print))", "DetectorSpec was given where BackboneSpec or"),
        ("register(spec('a/b'))", "a name is made of letters"),
        ("register(spec('a')); register(spec('a'))", "'a' is registered twice"),
        ("register(spec('resnet50'))", "'resnet50' is a built-in name of fx and cannot be registered"),
        ("register()", "TypeError"),
        ("return [spec('a')]", "returned a value"),
        # A plugin that swallows what register raises is found out all the same.
        ("\n    try: register(3)\n    except Exception: pass", "int was given"),
    ],
)
def test_failure_at_registration_registers_nothing(site, body, reason):
    found = failure(site, f"@hookimpl\ndef fx_register_backbones(register): {body}")
    assert found.stage == "register"
    assert reason in found.reason
    with pytest.raises(UnknownName) as error:
        load_zoo().backbone("a")
    assert f"not loaded: one (dist-one 1.2): {found.reason}" in str(error.value)


def test_a_failed_plugin_is_not_called_when_metrics_are_logged(site):
    site.add("""
        @hookimpl
        def fx_log_metrics(run, step, metrics):
            raise AssertionError
        @hookimpl
        def fx_register_backbones(register):
            raise ValueError
        """)
    load_zoo().pm.hook.fx_log_metrics(run=Path(), step=1, metrics={})


def test_a_tracker_gets_metrics(site):
    module = site.add("seen = []\n@hookimpl\ndef fx_log_metrics(step, metrics): seen.append((step, metrics))")
    load_zoo().pm.hook.fx_log_metrics(run=Path(), step=3, metrics={"loss": 1.0})
    assert sys.modules[module].seen == [(3, {"loss": 1.0})]


def test_sections_of_reports_come_from_every_plugin_that_can(site, capsys):
    site.add("@hookimpl\ndef fx_report_sections(run): return [('title', str(run))]", entry="good")
    site.add("@hookimpl\ndef fx_report_sections(run): raise ValueError('no')", entry="bad", dist="dist-bad")
    late = "def fx_report_sections(run):\n    yield 'title', 'x'\n    raise KeyError('late')"
    site.add(f"@hookimpl\n{late}", entry="late", dist="dist-late")
    site.add("@hookimpl\ndef fx_report_sections(run): raise SystemExit(3)", entry="ending", dist="dist-ending")
    rows = "def fx_report_sections(run):\n    yield 'rows', ((n, str(n + 1)) for n in (1, 2))"
    site.add(f"@hookimpl\n{rows}", entry="rows", dist="dist-rows")
    assert load_zoo().report_sections(Path("runs/a")) == [
        ("good", "title", "runs/a"),
        ("rows", "rows", [["1", "2"], ["2", "3"]]),
    ]
    told = capsys.readouterr().err
    for name, reason in (("bad", "ValueError: no"), ("late", "KeyError: 'late'"), ("ending", "SystemExit: 3")):
        assert f"plugin {name} adds nothing to the report: {reason}" in told


SILENT = type("Silent", (), {"__str__": lambda self: 1 / 0})()


@pytest.mark.parametrize(
    ("returned", "reason"),
    [
        (("title", "text"), "a section is (title, text) or (title, rows of cells, a head first)"),
        ([("title", "text", "more")], "a section is (title, text) or (title, rows of cells, a head first)"),
        ([("title", ["ab", "cd"])], "a table is rows of cells, a head first"),
        ([("title", [{"a": 1}])], "a table is rows of cells, a head first"),
        ([("title", {"a": 1})], "a table is rows of cells, a head first"),
        ([("title", [])], "a table is rows of cells, a head first"),
        ([("title", [[1], [1, 2]])], "rows of a table have as many cells as its head"),
        ([("title", None)], "TypeError: 'NoneType' object is not iterable"),
        ([("first", "text"), (SILENT, "text")], "ZeroDivisionError: division by zero"),
        ([("first", "text"), ("title", [["head"], [SILENT]])], "ZeroDivisionError: division by zero"),
    ],
)
def test_a_section_of_a_report_that_is_none_is_told(returned, reason, capsys):
    class Adding:
        @hookimpl
        def fx_report_sections(self, run):
            return returned

    zoo = Zoo()
    zoo.pm.register(Adding(), "odd")
    assert zoo.report_sections(Path("runs/a")) == []
    assert capsys.readouterr().err == f"warning: plugin odd adds nothing to the report: {reason}\n"


def test_what_a_plugin_prints_goes_to_stderr(site, capsys):
    """Stdout is data, of which one more line would make no JSON."""
    site.add("""
        print("import")
        from fxcli import *
        def built(args):
            print("build")
            import torch
            return torch.nn.Identity()
        def resolve(member):
            print("resolve")
            return spec(member, build=built)
        @hookimpl
        def fx_register_backbones(register):
            print("register")
            register(BackboneFamily(prefix="loud", resolve=resolve))
        @hookimpl
        def fx_start_run(run):
            print("start")
        @hookimpl
        def fx_log_metrics(run, step, metrics):
            print("log")
        @hookimpl
        def fx_report_sections(run):
            print("sections")
            yield "title", "text"
        """)
    zoo = load_zoo()
    build_backbone(zoo.backbone("loud:one"), Model(backbone="loud:one"), 64, 0)
    zoo.start_run(Path())
    zoo.log_metrics(Path(), 1, {})
    assert ("one", "title", "text") in zoo.report_sections(Path())
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.split() == ["import", "register", "resolve", "build", "start", "log", "sections"]


def test_two_entry_points_of_one_name_are_both_loaded(site):
    site.add(registering("alpha"), entry="same", dist="first")
    site.add(registering("beta"), entry="same", dist="Second_Dist")
    zoo = load_zoo()
    assert zoo.provider("backbone", "alpha").name == "first.same"
    assert zoo.provider("backbone", "beta").name == "second-dist.same"
    assert zoo.backbone("second-dist.same/beta").name == "beta"


def test_an_entry_point_named_as_the_built_in_plugin_is_qualified(site):
    site.add(registering("alpha"), entry="fx", dist="pretender")
    assert load_zoo().provider("backbone", "alpha").name == "pretender.fx"
    assert load_zoo().plugins[0].module == "fxcli.zoo.builtin"


def test_two_plugins_that_claim_one_name(site):
    site.add(registering("shared", "alpha"), entry="one", dist="dist-one")
    site.add(registering("shared"), entry="two", dist="dist-two")
    zoo = load_zoo()
    with pytest.raises(AmbiguousName) as error:
        zoo.backbone("shared")
    assert error.value.exit_code == 3
    assert "write one/shared or two/shared" in str(error.value)
    assert zoo.provider("backbone", "two/shared").name == "two"
    assert zoo.backbone("one/shared").name == "shared"
    assert {"one/shared", "two/shared", "alpha"} <= set(zoo.backbones())
    assert "shared" not in zoo.backbones()
    with pytest.raises(UnknownName, match="unknown backbone 'three/shared'"):
        zoo.backbone("three/shared")


def test_one_module_under_two_names_is_reported(site):
    module = site.add(registering("alpha"), points="")
    site.add("", dist="dist-two", points=f"[fx.plugins]\na = {module}\nb = {module}\n")
    zoo = load_zoo()
    assert plugin(zoo, "a").status == "ok"
    assert (plugin(zoo, "b").status, plugin(zoo, "b").stage) == ("failed", "import")
    assert plugin(zoo, "b").reason == f"{module} is already loaded as plugin a"
    assert zoo.pm.get_plugin("a") is not None
    assert zoo.backbone("a/alpha")


def test_metadata_that_cannot_be_parsed_is_reported(site):
    site.add("", points="[fx.plugins]\nno equals sign\n")
    found = plugin(load_zoo(), "dist-one")
    assert (found.status, found.stage, found.version) == ("failed", "import", "1.2")


def test_metadata_of_strangers_is_nobodys_business(site):
    site.add("", points="[console_scripts]\nno equals sign\n")
    assert all(plugin.distribution != "dist-one" for plugin in load_zoo().plugins)


def test_blocked_plugins_are_not_imported(site, monkeypatch, capsys):
    module = site.add(registering("alpha"))
    monkeypatch.setenv("FX_DISABLE_PLUGINS", "one, nobody,fx,")
    zoo = load_zoo()
    assert module not in sys.modules
    assert (plugin(zoo, "one").status, plugin(zoo, "one").reason) == (
        "blocked",
        "blocked by FX_DISABLE_PLUGINS",
    )
    assert zoo.backbone("resnet18"), "the built-in plugin cannot be blocked"
    warnings = capsys.readouterr().err
    assert "'nobody'" in warnings
    assert "'fx'" in warnings
    assert "'one'" not in warnings
    with pytest.raises(UnknownName, match=r"not loaded: one .*blocked by FX_DISABLE_PLUGINS"):
        zoo.backbone("alpha")


def test_unknown_backbone_helps(site):
    site.add(registering("alpha"))
    with pytest.raises(UnknownName) as error:
        load_zoo().backbone("ResNet5")
    text = str(error.value)
    assert "did you mean resnet50 or resnet18?" in text
    assert "alpha" in text
    assert "timm:<name>" in text
    with pytest.raises(UnknownName, match="did you mean timm:resnet18"):
        load_zoo().backbone("tim:resnet18")


FAMILY = """
def resolve(name):
    if name == "missing": raise KeyError(name, "present")
    if name == "crash": 1 / 0
    if name == "exit": raise SystemExit
    if name == "wrong": return "spec"
    if name == "bad": return spec("x", num_features=0)
    if name == "absent": raise MissingDependency("many", extra="lite", purpose=name)
    return spec(name)
@hookimpl
def fx_register_backbones(register):
    register(BackboneFamily(prefix="many", resolve=resolve))
"""


def test_families(site):
    site.add(FAMILY)
    zoo = load_zoo()
    assert zoo.backbone("many:inner:name").name == "many:inner:name"
    assert zoo.backbone("one/many:x").name == "many:x"
    assert zoo.provider("backbone", "many:x").name == "one"
    assert "many" in zoo.families()
    with pytest.raises(UnknownName, match="unknown backbone 'many:missing' — did you mean many:present"):
        zoo.backbone("many:missing")
    for name, reason in [
        ("crash", "ZeroDivisionError: division by zero"),
        ("exit", "SystemExit"),
        ("wrong", "str was given where BackboneSpec is wanted"),
        ("bad", "num_features must be a positive integer"),
    ]:
        with pytest.raises(PluginError, match=f"plugin one failed on backbone 'many:{name}': .*{reason}"):
            zoo.backbone(f"many:{name}")


def test_what_a_family_lacks_keeps_its_code_and_hint(site):
    site.add(FAMILY)
    with pytest.raises(MissingDependency, match="absent needs the package many") as caught:
        load_zoo().backbone("many:absent")
    assert "fxcli[lite]" in caught.value.hint


def test_two_families_of_one_prefix(site):
    site.add(FAMILY, entry="one", dist="dist-one")
    site.add(FAMILY, entry="two", dist="dist-two")
    with pytest.raises(AmbiguousName, match=r"backbone 'many:x' is registered by 2 plugins"):
        load_zoo().backbone("many:x")
    assert load_zoo().provider("backbone", "two/many:x").name == "two"
