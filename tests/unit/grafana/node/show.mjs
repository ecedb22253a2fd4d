// What a panel shows, said by Grafana's own library: node show.mjs < request.json > answer.json
//
// The browser part of Grafana asks the data source, makes data frames of the answer, sends them through
// @grafana/data (transformations, overrides, units, mappings, thresholds) and draws what comes out. This does all
// but the drawing, so that a test can compare the texts, colours and cells. Done here as Grafana does it outside of
// its library: making frames of Prometheus's answer, replacing variables, and that a state timeline whose colour
// comes from thresholds merges by threshold and so never looks at its mappings.
// It is bundled before it runs: Grafana's packages mix two kinds of modules, which only newer versions of Node can.
import './browser.mjs';
import * as grafana from '@grafana/data';

globalThis.window ??= { location: { origin: 'http://grafana', href: 'http://grafana/' } };

const SCRAPE = 15; // seconds; the interval of the data source
const POINTS = 1000; // most samples that a graph asks for
const theme = grafana.createTheme();
const NAMES = ['green', 'orange', 'red', 'purple', 'blue', 'yellow', 'dark-red', 'semi-dark-green', 'text', 'transparent'];
const NAME_OF = new Map(NAMES.map((name) => [theme.visualization.getColorByName(name), name]));
NAME_OF.set(grafana.colorManipulator.asHexString(theme.colors.text.primary), 'text');
NAME_OF.set('#00000000', 'transparent');
const colour = (value) => NAME_OF.get(value) ?? value ?? '-';

const plain = (id, process, extra = {}) => ({
  id, path: id, name: id, description: '', editor: () => null, override: () => null, settings: {},
  process, shouldApply: () => true, ...extra,
});
const CUSTOM = ['width', 'cellOptions', 'lineStyle', 'transform', 'align', 'inspect', 'filterable', 'thresholdsStyle'];
const registry = new grafana.FieldConfigOptionsRegistry(() => [
  plain('unit', grafana.unitOverrideProcessor),
  plain('min', grafana.numberOverrideProcessor),
  plain('max', grafana.numberOverrideProcessor),
  plain('decimals', grafana.numberOverrideProcessor),
  plain('displayName', grafana.displayNameOverrideProcessor),
  plain('noValue', grafana.stringOverrideProcessor),
  plain('color', grafana.identityOverrideProcessor),
  plain('thresholds', grafana.thresholdsOverrideProcessor),
  plain('mappings', grafana.valueMappingsOverrideProcessor),
  plain('links', grafana.dataLinksOverrideProcessor),
  ...CUSTOM.map((id) => plain(`custom.${id}`, grafana.identityOverrideProcessor, { path: id, isCustom: true })),
]);
const transformers = new Map(Object.values(grafana.standardTransformers).map((each) => [each.id, each]));
grafana.standardTransformersRegistry.setInit(() =>
  [...transformers.values()].map((each) => ({ id: each.id, name: each.name, transformation: () => Promise.resolve(each), editor: () => null })));

// --- asking ----------------------------------------------------------------------------------------------------

const answers = new Map();
async function ask(server, path, parameters) {
  const url = `${server}/api/v1/${path}?${new URLSearchParams(parameters)}`;
  if (!answers.has(url)) {
    answers.set(url, fetch(url).then(async (answer) => {
      const body = await answer.json();
      if (body.status !== 'success') throw new Error(`${body.error}: ${parameters.query ?? path}`);
      return body.data;
    }));
  }
  return answers.get(url);
}

function seconds(text) {
  return text ? grafana.rangeUtil.intervalToSeconds(text) : 0;
}

function stepOf(request, interval) {
  const range = request.to - request.from;
  return Math.max(grafana.rangeUtil.roundInterval((range * 1000) / POINTS) / 1000, SCRAPE, seconds(interval));
}

function inExpression(request, text, step) {
  const values = {
    __range: `${request.to - request.from}s`,
    __interval: `${step}s`,
    __rate_interval: `${Math.max(step + SCRAPE, 4 * SCRAPE)}s`,
    ...Object.fromEntries(Object.entries(request.variables).map(([name, value]) => [name, asRegex(value)])),
  };
  return text.replace(/\$\{(\w+)(?::\w+)?\}|\$(\w+)/g, (whole, braced, bare) => values[braced ?? bare] ?? whole);
}

function asRegex(value) {
  if (!Array.isArray(value)) return value;
  const escaped = value.map((each) => each.replace(/[\\^$.*+?()[\]{}|]/g, '\\\\$&'));
  return escaped.length === 1 ? escaped[0] : `(${escaped.join('|')})`;
}

async function framesOf(request, panel) {
  const step = stepOf(request, panel.interval);
  const frames = [];
  for (const target of panel.targets ?? []) {
    if (target.hide) continue;
    const expression = inExpression(request, target.expr, step);
    const data = target.instant
      ? await ask(request.server, 'query', { query: expression, time: String(request.to) })
      : await ask(request.server, 'query_range', {
        query: expression, step: String(step),
        start: String(Math.floor(request.from / step) * step), end: String(Math.floor(request.to / step) * step),
      });
    if (!['vector', 'matrix'].includes(data.resultType)) throw new Error(`a ${data.resultType}: ${expression}`);
    const several = panel.targets.length > 1;
    const made = target.format === 'table' ? asTable(target, data.result, several) : data.result.map((one) => asSeries(target, one));
    frames.push(...made);
  }
  return frames;
}

function samplesOf(series) {
  return (series.values ?? [series.value]).map(([at, value]) => [at * 1000, Number(value.replace('Inf', 'Infinity'))]);
}

function asSeries(target, series) {
  const { __name__: _name, ...labels } = series.metric;
  const samples = samplesOf(series);
  const legend = target.legendFormat && target.legendFormat !== '__auto'
    ? grafana.renderLegendFormat(target.legendFormat, labels) : undefined;
  return {
    refId: target.refId, length: samples.length,
    fields: [
      { name: 'Time', type: 'time', config: {}, values: samples.map(([at]) => at) },
      { name: 'Value', type: 'number', labels, config: { displayNameFromDS: legend }, values: samples.map(([, value]) => value) },
    ],
  };
}

function asTable(target, result, several) {
  if (result.length === 0) return [];
  const labels = [...new Set(result.flatMap((one) => Object.keys(one.metric)))].sort();
  const rows = result.map((one) => [one, samplesOf(one).at(-1)]);
  return [{
    refId: target.refId, length: rows.length,
    fields: [
      { name: 'Time', type: 'time', config: {}, values: rows.map(([, [at]]) => at) },
      ...labels.map((label) => ({ name: label, type: 'string', config: { filterable: true }, values: rows.map(([one]) => one.metric[label] ?? '') })),
      { name: several ? `Value #${target.refId}` : 'Value', type: 'number', config: {}, values: rows.map(([, [, value]]) => value) },
    ],
  }];
}

// --- variables in links and titles -----------------------------------------------------------------------------

function inText(request, scopedVars, text) {
  return text.replace(/\$\{([^}:]+)(?::(\w+))?\}|\$(\w+)/g, (whole, braced, format, bare) => {
    const name = braced ?? bare;
    const context = scopedVars?.__dataContext?.value;
    let value;
    if (name === '__url_time_range') return `from=${request.from * 1000}&to=${request.to * 1000}`;
    if (name === '__value.text') value = grafana.formattedValueToString(context.field.display(context.field.values[context.rowIndex]));
    else if (name.startsWith('__data.fields.')) {
      const field = name.slice('__data.fields.'.length);
      const cells = grafana.getFieldDisplayValuesProxy({ frame: context.frame, rowIndex: context.rowIndex, timeZone: 'utc' });
      value = cells[field] === undefined ? `NO FIELD ${field}` : String(cells[field]);
    } else if (format === 'queryparam') {
      return [request.variables[name] ?? `NO VARIABLE ${name}`].flat().map((each) => `var-${name}=${encodeURIComponent(each)}`).join('&');
    } else value = request.variables[name] === undefined ? `NO VARIABLE ${whole}` : String(request.variables[name]);
    return format === 'percentencode' ? encodeURIComponent(value) : value;
  });
}

// --- showing ---------------------------------------------------------------------------------------------------

const textOf = (display) => grafana.formattedValueToString(display);

function finish(request, panel, frames) {
  return grafana.applyFieldOverrides({
    data: frames, fieldConfig: panel.fieldConfig, fieldConfigRegistry: registry, theme, timeZone: 'utc',
    replaceVariables: (text, scopedVars) => inText(request, scopedVars, text),
  });
}

async function transformed(panel, frames) {
  const configurations = panel.transformations ?? [];
  if (configurations.length === 0) return frames;
  return new Promise((resolve, reject) => {
    grafana.transformDataFrame(configurations, frames, { interpolate: (text) => text }).subscribe({ next: resolve, error: reject });
  });
}

const title = (field, frame, frames) => grafana.getFieldDisplayName(field, frame, frames);

function numbers(request, panel, frames) {
  const found = grafana.getFieldDisplayValues({
    fieldConfig: panel.fieldConfig, reduceOptions: panel.options.reduceOptions, data: frames, theme, timeZone: 'utc',
    replaceVariables: (text, scopedVars) => inText(request, scopedVars, text),
  });
  const named = found.length > 1 || panel.type === 'bargauge' || panel.options.textMode === 'value_and_name';
  return found.map(({ display }) => `${named && display.title ? `${display.title}: ` : ''}${textOf(display)} | ${colour(display.color)}`);
}

function table(panel, frames) {
  const shown = [];
  for (const frame of frames) {
    const order = panel.options.sortBy?.[0];
    const by = frame.fields.find((field) => title(field, frame, frames) === order?.displayName);
    let indexes = [...Array(frame.length).keys()];
    if (order && !by) shown.push(`SORTED BY A COLUMN THAT IS NOT THERE: ${order.displayName}`);
    if (by) indexes.sort((a, b) => (by.values[a] > by.values[b] ? 1 : by.values[a] < by.values[b] ? -1 : 0) * (order.desc ? -1 : 1));
    const width = (field) => (field.config.custom?.width ? '' : ' (NO WIDTH)');
    shown.push(`= ${frame.fields.map((field) => `${title(field, frame, frames)}${width(field)}`).join(' / ')}`);
    for (const row of indexes) {
      shown.push(frame.fields.map((field) => {
        const display = field.display(field.values[row]);
        const tinted = field.config.custom?.cellOptions?.type === 'color-text' ? ` (${colour(display.color)})` : '';
        const links = field.config.links?.length && textOf(display)
          ? field.getLinks({ valueRowIndex: row }).map((link) => ` -> ${link.href}`).join('') : '';
        return `${textOf(display)}${tinted}${links}`;
      }).join(' / '));
    }
  }
  return shown;
}

function byThreshold(field, value) {
  const steps = field.config.thresholds.steps;
  const step = [...steps].reverse().find((each) => value >= each.value) ?? steps[0];
  return { text: `>= ${step.value}`, color: theme.visualization.getColorByName(step.color) };
}

function timeline(panel, frames) {
  return frames.map((frame) => {
    const field = frame.fields[1];
    const runs = [];
    frame.fields[0].values.forEach((at, index) => {
      const merged = field.config.color?.mode === 'thresholds' && panel.options.mergeValues;
      const display = merged ? byThreshold(field, field.values[index]) : field.display(field.values[index]);
      const run = `${merged ? display.text : textOf(display)} (${colour(display.color)})`;
      const last = runs.at(-1);
      if (last?.run === run) last.until = at;
      else runs.push({ run, since: at, until: at });
    });
    // When the fabric looks again is its own affair: five minutes more or less say the same.
    const minutes = (run) => 5 * Math.round((run.until - run.since) / 300_000) || 'few';
    return `${title(field, frame, frames)}: ${runs.map((run) => `${run.run} ${minutes(run)} min`).join(', ')}`;
  });
}

function graph(panel, frames) {
  const counted = panel.fieldConfig.defaults.custom?.drawStyle === 'bars';
  return frames.map((frame) => {
    const field = frame.fields[1];
    const values = field.values.filter((value) => !Number.isNaN(value));
    const text = (value) => textOf(field.display(value));
    const fixed = field.config.color?.mode === 'fixed' ? ` (${colour(theme.visualization.getColorByName(field.config.color.fixedColor))})` : '';
    const style = [
      field.config.color?.mode === 'thresholds' ? 'BY THRESHOLDS' : undefined,
      field.config.custom?.lineStyle?.fill, field.config.custom?.transform,
      field.config.custom?.thresholdsStyle?.mode === 'dashed' ? `limit ${text(field.config.thresholds.steps.at(-1).value)}` : undefined,
    ].filter(Boolean).map((each) => ` ${each}`).join('');
    const whole = values.every(Number.isInteger) ? '' : ' (NOT WHOLE)';
    const figures = counted
      ? `highest ${text(Math.max(...values))}, in ${values.filter((value) => value > 0).length} bars${whole}`
      : `${text(Math.min(...values))} to ${text(Math.max(...values))}, last ${text(values.at(-1))}`;
    return `${title(field, frame, frames)}${fixed}${style}: ${values.length ? figures : 'NaN only'}`;
  });
}

// What other values would look like: each threshold and each value that has words, by the same display as the values.
function scale(field) {
  const valued = (field.config.mappings ?? []).filter((each) => each.type === 'value');
  const spoken = valued.flatMap((each) => Object.keys(each.options));
  const stepped = field.config.color?.mode === 'thresholds' || field.config.custom?.cellOptions?.type === 'color-text'
    ? field.config.thresholds.steps.slice(1).map((step) => step.value) : [];
  const others = (field.config.mappings ?? []).some((each) => each.options?.match === 'nan') ? [NaN] : [];
  return [...stepped, ...spoken, ...others].map((value) => {
    const display = field.display(field.type === 'number' ? Number(value) : value);
    return `${textOf(display)} ${colour(display.color)}`;
  });
}

function scales(request, panel, frames) {
  const probe = { length: 1, fields: [{ name: 'Value', type: 'number', config: {}, values: [0] }] };
  const [{ fields: [all] }] = finish(request, panel, [probe]);
  const found = panel.type === 'table' ? [] : [`scale: ${scale(all).join(', ')}`];
  if (panel.type === 'table') {
    for (const frame of frames) {
      for (const field of frame.fields) {
        if (field.config.mappings?.length) found.push(`scale of ${title(field, frame, frames)}: ${scale(field).join(', ')}`);
      }
    }
  }
  return found.filter((line) => !line.endsWith(': '));
}

async function shown(request, panel) {
  if (panel.type === 'row') return [`row: ${inText(request, {}, panel.title)}`];
  const asked = await framesOf(request, panel);
  const frames = finish(request, panel, await transformed(panel, asked));
  if (frames.length === 0 && panel.type !== 'stat' && panel.type !== 'bargauge') {
    return [`NOTHING: ${panel.fieldConfig.defaults.noValue ?? 'No data'}`];
  }
  const lines = {
    stat: numbers, bargauge: numbers,
    table: (_, ...rest) => table(...rest), 'state-timeline': (_, ...rest) => timeline(...rest), timeseries: (_, ...rest) => graph(...rest),
  }[panel.type]?.(request, panel, frames);
  if (lines === undefined) throw new Error(`no panel type ${panel.type} is known here`);
  if (frames.length === 0) return lines.map((line) => `NOTHING: ${line}`);
  const ordered = ['table', 'stat'].includes(panel.type) ? lines : lines.sort();
  return [...ordered, ...scales(request, panel, frames)];
}

async function marks(request, annotation) {
  const step = stepOf(request, annotation.step);
  const expression = inExpression(request, annotation.expr, step);
  const data = await ask(request.server, 'query_range', {
    query: expression, step: String(step),
    start: String(Math.floor(request.from / step) * step), end: String(Math.floor(request.to / step) * step),
  });
  const tags = (annotation.tagKeys ?? '').split(',');
  return data.result.map(({ metric, values }) => {
    // Marks that are not further apart than the step are one.
    const times = values.filter(([, value]) => Number(value) > 0).map(([at]) => at);
    const apart = times.filter((at, index) => index === 0 || at - times[index - 1] > step);
    const tagged = Object.keys(metric).filter((label) => tags.includes(label)).map((label) => metric[label]);
    return `${grafana.renderLegendFormat(annotation.titleFormat ?? '', metric)} [${tagged}] x${apart.length}`;
  }).sort();
}

async function choices(request, variable) {
  const [, selector, label] = variable.query.match(/^label_values\((.+), (\w+)\)$/) ?? [];
  if (!label) throw new Error(`not understood: ${variable.query}`);
  return ask(request.server, `label/${label}/values`, {
    'match[]': inExpression(request, selector, SCRAPE), start: String(request.from), end: String(request.to),
  });
}

const kinds = { panel: shown, annotation: marks, variable: choices };
async function answer(request) {
  const [kind] = Object.keys(kinds).filter((each) => each in request);
  try {
    return [request.key, await kinds[kind](request, request[kind])];
  } catch (error) {
    return [request.key, [`ERROR: ${error.message}`]];
  }
}

async function main() {
  let text = '';
  for await (const part of process.stdin) text += part;
  const output = await Promise.all(JSON.parse(text).map(answer));
  process.stdout.write(JSON.stringify(Object.fromEntries(output)));
}

main();
