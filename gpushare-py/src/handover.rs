//! Hand-over: the state of a node in the words of other tools, what was written for them as a spec, and
//! the spec of what is in force.

use std::path::PathBuf;
use std::sync::Arc;

use gpushare_core::{Spec, export, import};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString, PyTuple};
use serde::{Deserialize, Serialize};

use crate::arguments::{flag, hazards, path, text};
use crate::cdi::{lease_hook, program};
use crate::document::{counted, document_class, pickles_document, shown, simulated, texts};
use crate::error::{refused, refused_by};
use crate::node::{Given, Node};
use crate::words;

document_class!(
    /// The state of a node in the words of another tool. ``str()`` is the text.
    Exported,
    export::Exported,
    |exported| {
        let lines = counted(exported.text.lines().count(), "line");
        let unsaid = counted(exported.cannot_say.len(), "thing");
        let end = simulated(exported.simulated);
        Some(format!("{}: {lines}, cannot say {unsaid}{end}", exported.kind))
    }
);

#[pymethods]
impl Exported {
    /// In whose words.
    #[getter]
    fn kind<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        words::export_kind(py, self.0.kind)
    }

    /// The text, which ends with a line feed.
    #[getter]
    fn text(&self) -> &str {
        &self.0.text
    }

    /// What is so on this node and cannot be said in these words, in sentences.
    #[getter]
    fn cannot_say<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        texts(py, &self.0.cannot_say)
    }

    /// Whether the node is simulated.
    #[getter]
    fn simulated(&self) -> bool {
        self.0.simulated
    }

    fn __str__(&self) -> &str {
        &self.0.text
    }
}

/// A spec, and what is to be said of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Remarked {
    spec: Spec,
    remarks: Vec<String>,
}

impl Remarked {
    fn told(&self, one: &str) -> String {
        let selectors = counted(self.spec.gpus.len(), "selector");
        format!("{selectors}, {}", counted(self.remarks.len(), one))
    }
}

/// A spec, from what was written for another tool. ``str()`` is the spec in YAML.
#[pyclass(frozen, eq, module = "gpushare", weakref)]
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Imported(Arc<Remarked>);

pickles_document!(Imported);

#[pymethods]
impl Imported {
    /// What the text asks of this node's GPUs: for :meth:`Node.plan`.
    #[getter]
    fn spec<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        shown(py, &self.0.spec)
    }

    /// What a person should know, in sentences.
    #[getter]
    fn notes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        texts(py, &self.0.remarks)
    }

    fn __str__(&self) -> String {
        self.0.spec.to_string()
    }

    fn __repr__(&self) -> String {
        format!("<gpushare.Imported {}>", self.0.told("note"))
    }
}

/// A spec of what is in force. ``str()`` is the spec in YAML.
#[pyclass(frozen, eq, module = "gpushare", weakref)]
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SpecInForce(Arc<Remarked>);

pickles_document!(SpecInForce);

#[pymethods]
impl SpecInForce {
    /// What a reboot or a reload of the driver would take away, each GPU by its uuid: for :meth:`Node.plan`.
    #[getter]
    fn spec<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        shown(py, &self.0.spec)
    }

    /// What is so on this node and no spec can say, in sentences.
    #[getter]
    fn cannot_say<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        texts(py, &self.0.remarks)
    }

    fn __str__(&self) -> String {
        self.0.spec.to_string()
    }

    fn __repr__(&self) -> String {
        format!("<gpushare.SpecInForce {}>", self.0.told("remark"))
    }
}

/// What was written for another tool.
enum Source {
    Text(Vec<u8>),
    File(PathBuf),
}

/// Bytes; text, which has a line break or begins with a brace; or a path.
fn source(given: &Bound<'_, PyAny>) -> PyResult<Source> {
    const KEY: &str = "source";
    if let Ok(bytes) = given.cast::<PyBytes>() {
        return Ok(Source::Text(bytes.as_bytes().to_vec()));
    }
    if given.is_instance_of::<PyString>() {
        let text = text(KEY, given)?;
        if text.contains('\n') || text.trim_start().starts_with('{') {
            return Ok(Source::Text(text.into_bytes()));
        }
    }
    path(KEY, given).map(Source::File).map_err(|error| {
        if error.is_instance_of::<PyTypeError>(given.py()) {
            PyTypeError::new_err("source: give a path, or the text of a file as str or bytes")
        } else {
            error
        }
    })
}

#[pymethods]
impl Node {
    /// The state of this node in the words of another tool, with what they cannot say. Changes nothing, and
    /// needs no privilege.
    ///
    /// An option that the kind does not take is an InvalidRequestError.
    ///
    /// :param kind: in whose words: an :class:`ExportKind`, or its word.
    /// :param config: mig-parted and gpu-operator: the name of the config, by default ``current`` and
    ///     ``gpushare``.
    /// :param image: docker-run and compose: the image, by default ``IMAGE``.
    /// :param cdi: docker-run and compose: name devices through CDI, and not through Docker's ``--gpus``.
    /// :param node: gpu-operator and gres: the name of the node, by default ``NODE``, and for gres lines of a
    ///     file that is that node's own.
    /// :param allow_hazards: device-plugin, gpu-operator, resource-claim and gres: the names of hazards that
    ///     are accepted.
    /// :param cdi_program: cdi: the absolute path of the ``gpushare`` command with which each container takes a
    ///     lease of its share, such as :func:`command_path`. None for containers without leases. To keep
    ///     specifications that follow the GPUs, ``cdi`` of :meth:`Plan.apply`.
    #[pyo3(
        signature = (kind, *, config=None, image=None, cdi=Given::No, node=None, allow_hazards=Given::No, cdi_program=None),
        text_signature = "($self, kind, *, config=None, image=None, cdi=False, node=None, allow_hazards=(), cdi_program=None)"
    )]
    #[expect(clippy::too_many_arguments, reason = "keywords of Python's")]
    fn export(
        &self,
        py: Python<'_>,
        kind: &Bound<'_, PyAny>,
        config: Option<&Bound<'_, PyAny>>,
        image: Option<&Bound<'_, PyAny>>,
        cdi: Given<'_>,
        node: Option<&Bound<'_, PyAny>>,
        allow_hazards: Given<'_>,
        cdi_program: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Exported> {
        let kind: export::Kind =
            text("kind", kind)?.parse().map_err(|error| refused_by(py, "kind", error))?;
        let mut options = export::Options::default();
        options.config = config.map(|config| text("config", config)).transpose()?;
        options.image = image.map(|image| text("image", image)).transpose()?;
        options.node = node.map(|node| text("node", node)).transpose()?;
        if let Given::Yes(cdi) = cdi {
            options.cdi = flag("cdi", &cdi)?;
        }
        if let Given::Yes(names) = allow_hazards {
            options.allow_hazards = hazards("allow_hazards", &names)?;
        }
        let program = cdi_program.map(program).transpose()?;
        if program.is_some() && kind != export::Kind::Cdi {
            return Err(refused(py, "cdi_program", format!("{kind} takes none: that is for cdi")));
        }
        let exported = self.call("Node.export").run(py, || {
            let node = self.0.node();
            let hook = program.as_deref().map(|program| lease_hook(node, program));
            options.lease_hook = hook.transpose()?;
            node.export(kind, &options)
        })?;
        Ok(Exported(Arc::new(exported)))
    }

    /// The spec that a file of another tool's means on this node, by that tool's own rules; what it would do
    /// in silence is in the notes, or refused. Changes nothing.
    ///
    /// :param kind: for which tool it was written: ``"mig-parted"``, a config file of version v1 or a
    ///     checkpoint.
    /// :param source: the path of a file; or its text, YAML or JSON. A ``str`` is text when it has a line break
    ///     or begins with ``{``, and else a path; bytes are text.
    /// :param config: the name of the config; needed unless the file has one alone.
    #[pyo3(signature = (kind, source, *, config=None))]
    fn import_config(
        &self,
        py: Python<'_>,
        kind: &Bound<'_, PyAny>,
        source: &Bound<'_, PyAny>,
        config: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Imported> {
        let kind: import::Kind =
            text("kind", kind)?.parse().map_err(|error| refused_by(py, "kind", error))?;
        let source = self::source(source)?;
        let mut options = import::Options::default();
        options.config = config.map(|config| text("config", config)).transpose()?;
        let imported = self.call("Node.import_config").run(py, || {
            let node = self.0.node();
            match &source {
                Source::Text(text) => node.import(text, kind, &options),
                Source::File(path) => node.import_file(path, kind, &options),
            }
        })?;
        Ok(Imported(Arc::new(Remarked { spec: imported.spec, remarks: imported.notes })))
    }

    /// A spec of what is in force here and a reboot or a reload of the driver would take away: the GPUs that
    /// gpushare manages and those with MIG instances, with placements and names. GPUs that nobody manages are
    /// left out. ``gpushare persist`` stores it for the next boot.
    fn spec_in_force(&self, py: Python<'_>) -> PyResult<SpecInForce> {
        let (spec, remarks) =
            self.call("Node.spec_in_force").run(py, || self.0.node().spec_in_force())?;
        Ok(SpecInForce(Arc::new(Remarked { spec, remarks })))
    }
}
