// What the OHIF viewer reads at start. One data source: the DICOMweb that serve.py offers under the page's own origin.

const FINDING_SITE = '363698007'; // SNOMED CT
const MOST_LINES = 5;

// Makes up for what OHIF 3.13 does to a measurement group of a report. Called for each group before its outline is
// drawn, again and again until an image was found for it. Without this, nothing says of which finding the numbers are,
// the finding site's name is a bare code, numbers from the sixth on are left out, and a group without an outline ends
// the viewer (OHIF issue 3390).
function readable(measurement) {
  if (measurement.isReadable) return measurement;
  for (const one of measurement.labels) if (one.label === FINDING_SITE) one.label = 'Finding Site';
  measurement.labels = folded([{ label: measurement.TrackingIdentifier, value: '' }, ...measurement.labels]);
  if (!measurement.coords.length) measurement.coords = [{}];
  measurement.coords.forEach(inPlace);
  measurement.isReadable = true;
  return measurement;
}

function folded(lines) {
  const [kept, rest] = [lines.slice(0, MOST_LINES - 1), lines.slice(MOST_LINES - 1)];
  if (!rest.length) return kept;
  const { label, value } = rest.pop();
  const before = rest.map(one => `${one.label}: ${one.value}, `).join('');
  return [...kept, { label: before + label, value }];
}

// Makes up for cornerstone3D issue 2758: columns of an outline are multiplied with the spacing of rows, and rows with
// that of columns, so that on pixels that are not square it would be drawn beside what it outlines.
function inPlace(coords) {
  if (coords.ValueType !== 'SCOORD') return;
  const uid = coords.ReferencedSOPSequence.ReferencedSOPInstanceUID;
  const instances = services.displaySetService.getActiveDisplaySets().flatMap(one => one.instances ?? []);
  const plane = cornerstone.metaData.get('imagePlaneModule', instances.find(one => one.SOPInstanceUID === uid)?.imageId);
  if (!plane?.rowPixelSpacing || !plane.columnPixelSpacing) return;
  const squeeze = plane.columnPixelSpacing / plane.rowPixelSpacing;
  const share = [squeeze, 1 / squeeze]; // of columns, of rows; both begin at the outer corner of the first pixel
  coords.GraphicData = Array.from(coords.GraphicData, (value, n) => 0.5 + (value - 0.5) * share[n % 2]);
}

window.config = {
  name: 'petite-curie',
  routerBasename: '/',
  extensions: [],
  modes: [],
  customizationService: [
    {
      'ohif.tours': { $set: [] }, // it would lie over the images at the first visit
      autoCineModalities: { $set: [] }, // our pictures (OT) are slices: a player would lie over them
      onBeforeSRAddMeasurement: { $set: ({ measurement }) => readable(measurement) },
    },
  ],
  disableConfirmationPrompts: true, // else a segmentation that was opened is not shown before a question is answered
  showStudyList: true,
  maxNumberOfWebWorkers: 3,
  showWarningMessageForCrossOrigin: false,
  showCPUFallbackMessage: false,
  strictZSpacingForVolumeViewport: true,
  showErrorDetails: 'always',
  investigationalUseDialog: { option: 'never' },
  defaultDataSourceName: 'pacs',
  dataSources: [
    {
      namespace: '@ohif/extension-default.dataSourcesModule.dicomweb',
      sourceName: 'pacs',
      configuration: {
        friendlyName: 'PACS',
        name: 'pacs',
        qidoRoot: '/dicom-web',
        wadoRoot: '/dicom-web',
        qidoSupportsIncludeField: false,
        imageRendering: 'wadors',
        thumbnailRendering: 'wadors',
        enableStudyLazyLoad: true,
        supportsFuzzyMatching: false,
        supportsWildcard: true,
        supportsReject: false,
        dicomUploadEnabled: false,
        omitQuotationForMultipartRequest: true,
        bulkDataURI: { enabled: true },
      },
    },
  ],
};
