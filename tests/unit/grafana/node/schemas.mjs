// Writes schemas/*.json from the types of npm `@grafana/schema`: npm run schemas. They are committed, since making them takes
// half a minute; a test makes them again where the packages for it are installed.
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { createGenerator } from 'ts-json-schema-generator';

const here = dirname(fileURLToPath(import.meta.url));
const out = process.argv[2] ?? join(here, 'schemas');
const types = '@grafana/schema/dist/types';
const KINDS = { stat: 'stat', table: 'table', timeseries: 'timeseries', 'state-timeline': 'statetimeline', bargauge: 'bargauge' };
const folder = mkdtempSync(join(here, 'node_modules', '.schemas-'));

function write(name, source) {
  const path = join(folder, `${name}.ts`);
  writeFileSync(path, source);
  const schema = createGenerator({ path, type: 'Checked', skipTypeCheck: true, additionalProperties: false, tsconfig: undefined }).createSchema('Checked');
  writeFileSync(join(out, `${name}.json`), `${JSON.stringify(schema, null, 1)}\n`);
}

try {
  mkdirSync(out, { recursive: true });
  write('dashboard', `import { Dashboard } from '${types}/raw/dashboard/x/types.gen';\nexport type Checked = Dashboard;\n`);
  for (const [kind, module] of Object.entries(KINDS)) {
    const from = `${types}/raw/composable/${module}/panelcfg/x/types.gen`;
    write(kind, `import * as kind from '${from}';\nexport interface Checked { options: kind.Options; ${['stat', 'bargauge'].includes(kind) ? '' : 'fieldConfig: kind.FieldConfig;'} }\n`);
  }
} finally {
  rmSync(folder, { recursive: true });
}
